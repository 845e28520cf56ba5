"""Random file operations of an ordinary user (test/fuzz/files.c): the daemon survives them, and says nothing strange.

For more: --fuzz-seconds, --fuzz-seed, and LOCKSPACEFS_TEST_LIMIT=seconds, after which a test is given up.
"""

import os
import subprocess

import pytest

from lockspacefs_test import (NOBODY, SOMEBODY, get, is_free_and_removed, locks, make_lockspace, opened, run_as,
                              status, wait_until)

# What the kernel says before it asks us, or we say, to nearly everything.
PATH = "ENOENT ENOTDIR EACCES ENAMETOOLONG ESTALE"
FD = "EBADF EINVAL ESTALE"
VALUE = "EISDIR EFBIG ENOLCK EOPNOTSUPP EPERM EAGAIN"            # EAGAIN: O_NONBLOCK and RWF_NOWAIT

# What each operation may end with. ENOSYS, EIO, ENXIO but from SEEK_DATA, EPROTO, ENOTCONN … are nowhere: nothing
# here loses a value, and the daemon lives. EINTR: what waits for a lock, for the end of a lease (the kernel's own, see
# fcntl(2)) or, on a cluster, for the lock manager (a value, fsync, the device of a lockspace). What comes and goes
# meanwhile is EBUSY, EEXIST, EINPROGRESS (engine dlm).
ALLOWED = {
    "open": f"{PATH} EPERM EINTR EAGAIN EEXIST EISDIR EINVAL EOPNOTSUPP ENOLCK",
    "open-usefully": f"{PATH} EINTR EAGAIN",
    "close": "EBADF",
    "dup": "EBADF",
    "read": f"{FD} EISDIR EAGAIN EINTR",
    "pread": f"{FD} EISDIR EAGAIN EINTR",
    "preadv2": f"{FD} EISDIR EAGAIN EINTR EOPNOTSUPP",
    "write": f"{FD} {VALUE}",
    "pwrite": f"{FD} {VALUE}",
    "pwritev2": f"{FD} {VALUE}",
    "lseek": f"{FD} ENXIO EOVERFLOW",
    "ftruncate": f"{FD} EFBIG ENOLCK EPERM",
    "truncate": f"{PATH} EISDIR EINVAL EFBIG EPERM EINTR",
    "fallocate": f"{FD} EOPNOTSUPP EFBIG EPERM",
    "fsync": f"{FD} EINTR",
    "sync-range": FD,
    "advise": FD,
    "flock": f"{FD} EINTR EAGAIN EACCES EOPNOTSUPP EDEADLK",
    "fcntl-lock": f"{FD} EINTR EAGAIN EACCES EOPNOTSUPP EDEADLK EOVERFLOW",
    "fcntl": f"{FD} EPERM EAGAIN EACCES ENOTDIR",
    "poll": "EINTR",
    "ioctl": f"{FD} ENOTTY EPERM EOPNOTSUPP ENOMEM EISDIR EACCES EFAULT EBUSY EXDEV",    # ENOMEM: the kernel, of a size in its number
    "mmap": f"{FD} ENODEV EACCES EOVERFLOW EPERM",
    "rename": f"{PATH} EPERM EBUSY EEXIST EISDIR EINVAL ENOTEMPTY",
    "link": f"{PATH} EPERM EEXIST",
    "symlink": f"{PATH} EPERM EEXIST",
    "readlink": f"{PATH} EINVAL",
    "mknod": f"{PATH} EPERM EEXIST EINVAL",
    "bind": f"{PATH} EPERM EADDRINUSE EINVAL",
    "mkdir": f"{PATH} EPERM EEXIST EINVAL EBUSY EINPROGRESS EINTR",
    "make-space": f"{PATH} EEXIST EBUSY EINPROGRESS EINTR",
    "rmdir": f"{PATH} EPERM EBUSY EINVAL ENOTEMPTY EINPROGRESS EINTR",
    "rmdir-by-force": f"{PATH} EPERM EBUSY EINPROGRESS EINTR",
    "unlink": f"{PATH} EPERM EISDIR",
    "chmod": f"{PATH} EPERM EBADF EINTR",
    "chown": f"{PATH} EPERM EBADF EINTR",
    "utimens": f"{PATH} EPERM EBADF EINVAL",
    "getxattr": f"{PATH} EPERM EBADF ENODATA ERANGE EOPNOTSUPP EINTR",
    "setxattr": f"{PATH} EPERM EBADF ENODATA ERANGE EOPNOTSUPP EINVAL EEXIST E2BIG",
    "listxattr": f"{PATH} EBADF ERANGE",
    "removexattr": f"{PATH} EPERM EBADF ENODATA ERANGE EOPNOTSUPP",
    "getdents": f"{PATH} EBADF EINVAL",
    "stat": f"{PATH} EBADF EINVAL",
    "access": f"{PATH} EINVAL",
    "copy": f"{FD} {VALUE} EINTR EOVERFLOW EXDEV",
    "inotify": f"{PATH} EINVAL",
    "handle": f"{PATH} EOVERFLOW EOPNOTSUPP",
    "chdir": PATH,
    "fork": f"{PATH} EINTR ENOEXEC ETXTBSY EPERM EINVAL",
}

NEVER = ["bind", "fallocate", "link", "readlink", "symlink"]    # succeed
SOMETIMES = ["open", "open-usefully", "read", "write", "flock", "fcntl-lock", "poll", "stat", "getxattr"]   # do, at least


@pytest.fixture
def daemon(make_daemon):
    """One on which everybody may make lockspaces."""
    return make_daemon("mode=0777")


def throw(program, mountpoint, *arguments):
    """Run it; what came of each operation, as {operation: {result: count}}."""
    done = subprocess.run([program, "--uid", str(NOBODY), *map(str, arguments), mountpoint], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done
    table = {}
    for line in done.stdout.splitlines():
        operation, result, count = line.split(" ")
        table.setdefault(operation, {})[result] = int(count)
    return table


def check_results(table):
    strange = {(operation, result): count for operation, results in table.items()
               for result, count in results.items() if result not in ["OK", *ALLOWED[operation].split()]}
    strange.update({(operation, "OK"): table[operation]["OK"] for operation in NEVER if "OK" in table.get(operation, {})})
    assert not strange
    for operation in SOMETIMES:
        assert table[operation].get("OK"), (operation, table[operation])


def is_free(lockspace):
    """Nobody holds or waits there; a lockspace whose rmdir was interrupted may go meanwhile."""
    try:
        return locks(lockspace) == []
    except FileNotFoundError:
        return True


def check_well(mount):
    """It answers, holds nothing, and another user gets what he asks for."""
    wait_until(lambda: all(is_free(mount / name) for name in os.listdir(mount)))
    seen = status(mount)
    assert (seen["held"], seen["waiting"]) == (0, 0)
    (mount / "web").chmod(0o777)
    done = run_as(SOMEBODY, ["flock", "-n", str(mount / "web" / "well"), "echo", "well"])
    assert done.stdout == "well\n", done
    with opened(mount / "web/.ex/well") as fd:
        os.write(fd, b"well")
    assert get(mount / "web/well") == b"well"
    for name in {"one", "two", *os.listdir(mount)}:
        wait_until(lambda: is_free_and_removed(mount / name))
    assert os.listdir(mount) == []
    seen = status(mount)
    assert (seen["lockspaces"], seen["files"]) == (0, 0)


def test_the_daemon_survives_an_ordinary_user(request, daemon, helpers):
    seconds, seed = (request.config.getoption(f"--fuzz-{what}") for what in ["seconds", "seed"])
    make_lockspace(daemon.mountpoint)
    table = throw(helpers / "fuzz" / "files", daemon.mountpoint, "--seed", seed, "--seconds", seconds, "--ops", seconds * 100000)
    print(table.pop("all")["-"], "operations")
    check_results(table)
    check_well(daemon.mountpoint)
