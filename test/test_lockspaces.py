"""Lockspaces: made exclusively, released only when nobody uses them, or by force."""

import errno
import fcntl
import os
import select
import stat
import struct
from pathlib import Path

import pytest

from lockspacefs_test import (GROUP, MODES, NOBODY, OTHER_GROUP, SOMEBODY, Child, as_user, get, locks, make_lockspace,
                              opened, put, raises_errno, run_as, shell, touch, umask, wait_for_poll, wait_for_waiters,
                              wait_until)

WHOLE_FILE_WRITE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
F_OFD_SETLK = 37


def device(name):
    """The device of a lockspace in the kernel's DLM."""
    return Path("/dev/misc") / f"dlm_{name}"


def check_device(engine, lockspace):
    """On dlm the device has the directory's owner, group and permissions, without x."""
    if engine == "local":
        return                                  # no device: the lock manager is inside the daemon
    seen, expected = device(lockspace.name).stat(), lockspace.stat()
    assert (seen.st_uid, seen.st_gid) == (expected.st_uid, expected.st_gid)
    assert stat.S_IMODE(seen.st_mode) == stat.S_IMODE(expected.st_mode) & 0o666


def check_exists(engine, name, expected):
    if engine == "dlm":
        assert device(name).exists() == expected


def flock_waiter(peer, path):
    with opened(path) as fd:
        peer.say("asks")
        fcntl.flock(fd, fcntl.LOCK_EX)
        peer.say("locked")
        peer.wait_for("unlock")


def fcntl_waiter(peer, path):
    with opened(path) as fd:
        peer.say("asks")
        fcntl.lockf(fd, fcntl.LOCK_EX)
        peer.say("locked")
        peer.wait_for("unlock")


def open_waiter(peer, path):
    path = path.parent / ".ex" / path.name
    peer.say("asks")
    with opened(path):
        peer.say("locked")
        peer.wait_for("unlock")


WAITERS = [flock_waiter, fcntl_waiter, open_waiter]


def start_waiter(kind, path):
    """A process that waits for an EX lock on @path, which somebody holds."""
    child = Child(kind, path)
    child.wait_for("asks")
    wait_for_waiters(path.parent, resource=path.name)
    return child


# --- mkdir -----------------------------------------------------------------

def test_mkdir_is_exclusive(mount, engine):
    (mount / "web").mkdir()
    check_exists(engine, "web", True)
    with raises_errno(errno.EEXIST):
        os.mkdir(mount / "web")
    assert os.listdir(mount) == ["web"]


def test_mkdir_is_exclusive_among_users(make_daemon):
    mount = make_daemon("mode=1777").mountpoint
    run_as(NOBODY, lambda: os.mkdir(mount / "web"))
    with raises_errno(errno.EEXIST):
        run_as(SOMEBODY, lambda: os.mkdir(mount / "web"))
    assert (mount / "web").stat().st_uid == NOBODY


def test_mkdir_has_one_winner_among_many(mount):
    def make(peer):
        peer.wait_for("go")
        os.mkdir(mount / "web")

    children = [Child(make) for _ in range(8)]
    for child in children:
        child.say("go")
    results = []
    for child in children:
        try:
            child.join()
            results.append(0)
        except OSError as error:
            results.append(error.errno)
    assert results.count(0) == 1
    assert set(results) <= {0, errno.EEXIST, errno.EBUSY}   # EBUSY: the first is still being made


@pytest.mark.parametrize("mask, mode, expected", [
    (0o022, 0o777, 0o755), (0o027, 0o777, 0o750), (0o077, 0o777, 0o700), (0o000, 0o777, 0o777), (0o022, 0o700, 0o700),
    (0o007, 0o770, 0o770), (0o137, 0o777, 0o640),
])
def test_mode_and_umask_decide_the_permissions(mount, engine, mask, mode, expected):
    with umask(mask):
        os.mkdir(mount / "web", mode)
    assert stat.S_IMODE((mount / "web").stat().st_mode) == expected
    check_device(engine, mount / "web")


def test_mkdir_m_sets_exactly_these_permissions(mount, engine):
    assert shell("umask 077; mkdir -m 775 web", cwd=mount).returncode == 0
    assert stat.S_IMODE((mount / "web").stat().st_mode) == 0o775
    check_device(engine, mount / "web")


def test_the_creator_and_his_group_own_a_lockspace(make_daemon, engine):
    mount = make_daemon("mode=1777").mountpoint
    run_as(SOMEBODY, lambda: os.mkdir(mount / "web"), gid=GROUP)
    seen = (mount / "web").stat()
    assert (seen.st_uid, seen.st_gid) == (SOMEBODY, GROUP)
    check_device(engine, mount / "web")


def test_chmod_and_chown_reach_the_lockspace(lockspace, engine):
    lockspace.chmod(0o750)
    assert stat.S_IMODE(lockspace.stat().st_mode) == 0o750
    check_device(engine, lockspace)
    os.chown(lockspace, SOMEBODY, OTHER_GROUP)
    seen = lockspace.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (SOMEBODY, OTHER_GROUP, 0o750)
    check_device(engine, lockspace)
    os.chown(lockspace, -1, GROUP)
    assert (lockspace.stat().st_uid, lockspace.stat().st_gid) == (SOMEBODY, GROUP)
    check_device(engine, lockspace)


def test_a_lockspace_may_be_made_again(mount, engine):
    for _ in range(5):
        (mount / "web").mkdir()
        check_exists(engine, "web", True)
        (mount / "web").rmdir()
        check_exists(engine, "web", False)
        assert os.listdir(mount) == []


def test_a_lockspace_made_again_is_new(mount):
    (mount / "web").mkdir(0o700)
    put(mount / "web" / ".ex" / "rev", b"42")
    (mount / "web" / ".force").write_text("1")
    (mount / "web").rmdir()
    (mount / "web").mkdir(0o755)
    assert os.listdir(mount / "web") == []
    assert get(mount / "web" / ".pr" / "rev") == b""
    assert get(mount / "web" / ".force").strip() == b"0"
    assert stat.S_IMODE((mount / "web").stat().st_mode) == 0o755


def test_who_else_sees_a_lockspace(mount, make_daemon, engine):
    """One engine per node: on dlm every mount of the node shows all lockspaces,
    as they come and go. The local engine is its daemon's own."""
    other = make_daemon().mountpoint
    (mount / "web").mkdir(0o750)
    if engine == "local":
        assert os.listdir(other) == []
        (other / "web").mkdir()
        with opened(mount / "web" / ".ex" / "job"), opened(other / "web" / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK):
            pass
        return
    wait_until(lambda: os.listdir(other) == ["web"])
    assert stat.S_IMODE((other / "web").stat().st_mode) & 0o666 == 0o640
    with raises_errno(errno.EEXIST):
        os.mkdir(other / "web")
    with opened(mount / "web" / ".ex" / "job"):
        with raises_errno(errno.EWOULDBLOCK):
            os.open(other / "web" / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK)


# --- rmdir -----------------------------------------------------------------

def test_rmdir_releases(mount, engine):
    (mount / "web").mkdir()
    (mount / "web").rmdir()
    check_exists(engine, "web", False)
    with raises_errno(errno.ENOENT):
        (mount / "web").stat()
    with raises_errno(errno.ENOENT):
        (mount / "web").rmdir()
    with raises_errno(errno.ENOENT):
        os.open(mount / "web" / ".ex" / "job", os.O_RDWR)


def test_rmdir_of_a_lock_file_is_enotdir(lockspace):
    touch(lockspace / "job")
    with raises_errno(errno.ENOTDIR):
        os.rmdir(lockspace / "job")


def test_lock_files_that_nobody_has_locked_go_with_the_lockspace(mount):
    (mount / "web").mkdir()
    for i in range(100):
        touch(mount / "web" / f"job-{i}")
    put(mount / "web" / ".ex" / "rev", b"42")   # our own kept value does not stand in the way either
    with opened(mount / "web" / "job-0", os.O_RDWR) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
    (mount / "web").rmdir()
    assert os.listdir(mount) == []


def hold_flock_shared(fd):
    fcntl.flock(fd, fcntl.LOCK_SH)


def hold_flock(fd):
    fcntl.flock(fd, fcntl.LOCK_EX)


def hold_posix(fd):
    fcntl.lockf(fd, fcntl.LOCK_EX)


def hold_posix_shared(fd):
    fcntl.lockf(fd, fcntl.LOCK_SH)


def hold_ofd(fd):
    fcntl.fcntl(fd, F_OFD_SETLK, WHOLE_FILE_WRITE)


@pytest.mark.parametrize("hold", [hold_flock, hold_flock_shared, hold_posix, hold_posix_shared, hold_ofd])
def test_rmdir_is_ebusy_while_somebody_holds_a_lock(lockspace, hold):
    touch(lockspace / "job")
    with opened(lockspace / "job") as fd:
        hold(fd)
        before = locks(lockspace)
        with raises_errno(errno.EBUSY):
            lockspace.rmdir()
        after = locks(lockspace)
        assert [(row["resource"], row["state"], row["mode"]) for row in after] \
            == [(row["resource"], row["state"], row["mode"]) for row in before]
        with raises_errno(errno.EWOULDBLOCK):
            os.open(lockspace / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK)
        assert os.listdir(lockspace) == ["job"]
    lockspace.rmdir()


@pytest.mark.parametrize("mode", MODES)
def test_rmdir_is_ebusy_while_a_file_is_open_in_a_mode_directory(lockspace, mode):
    with opened(lockspace / f".{mode}" / "job"):
        with raises_errno(errno.EBUSY):
            lockspace.rmdir()
        assert [row["mode"] for row in locks(lockspace)] == [mode.upper()]
    lockspace.rmdir()


def test_rmdir_is_ebusy_while_an_unlinked_file_is_locked(lockspace):
    with opened(lockspace / "job", os.O_RDWR | os.O_CREAT) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH)
        (lockspace / "job").unlink()
        with raises_errno(errno.EBUSY):
            lockspace.rmdir()
    lockspace.rmdir()


@pytest.mark.parametrize("kind", WAITERS)
def test_ebusy_loses_no_waiter(lockspace, kind):
    touch(lockspace / "job")
    holder = os.open(lockspace / ".pr" / "job", os.O_RDWR)
    child = start_waiter(kind, lockspace / "job")
    for _ in range(3):
        with raises_errno(errno.EBUSY):
            lockspace.rmdir()
    assert sorted(row["state"] for row in locks(lockspace)) == ["held", "waiting"]
    assert not child.has_said()
    os.close(holder)
    child.wait_for("locked")
    with raises_errno(errno.EBUSY):
        lockspace.rmdir()
    child.say("unlock")
    child.join()
    lockspace.rmdir()


def test_ebusy_loses_no_value(lockspace):
    put(lockspace / ".ex" / "rev", b"42")
    put(lockspace / ".ex" / "other", b"held")
    with opened(lockspace / ".ex" / "other") as fd:
        os.write(fd, b"new")
        for _ in range(3):
            with raises_errno(errno.EBUSY):
                lockspace.rmdir()
        assert get(lockspace / "rev") == b"42"
        assert get(lockspace / ".pr" / "rev") == b"42"
        assert os.pread(fd, 32, 0) == b"newd"
    assert get(lockspace / ".pr" / "other") == b"newd"


def test_ebusy_keeps_the_lockspace_usable(mount, lockspace, engine):
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / ".nl" / "job"):
        before = lockspace.stat()
        with raises_errno(errno.EBUSY):
            lockspace.rmdir()
        after = lockspace.stat()
        assert (after.st_mode, after.st_uid, after.st_gid, after.st_ino) \
            == (before.st_mode, before.st_uid, before.st_gid, before.st_ino)
        check_device(engine, lockspace)
        with opened(lockspace / ".ex" / "job"):
            pass
        assert os.listdir(mount) == ["web"]


def test_an_open_file_without_a_lock_does_not_stand_in_the_way(lockspace):
    touch(lockspace / "job")
    with opened(lockspace / "job") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.flock(fd, fcntl.LOCK_UN)
        lockspace.rmdir()


CALLS_ON_A_DEAD_FILE = {
    "read": lambda fd: os.pread(fd, 32, 0),
    "write": lambda fd: os.pwrite(fd, b"x", 0),
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_EX),
    "flock, try": lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "fcntl": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX),
    "getlk": lambda fd: fcntl.fcntl(fd, fcntl.F_GETLK, WHOLE_FILE_WRITE),
    "ftruncate": lambda fd: os.ftruncate(fd, 0),
}


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
@pytest.mark.parametrize("call", CALLS_ON_A_DEAD_FILE)
def test_the_next_call_on_an_open_file_says_estale(lockspace, call, again):
    touch(lockspace / "job")
    with opened(lockspace / "job") as fd:
        lockspace.rmdir()
        if again:                               # node ids are never used again
            lockspace.mkdir()
            touch(lockspace / "job")
        with raises_errno(errno.ESTALE):
            CALLS_ON_A_DEAD_FILE[call](fd)
    if again:
        assert locks(lockspace) == []
        with opened(lockspace / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK):
            pass


def test_a_working_directory_that_was_released_is_of_no_use(mount):
    (mount / "web").mkdir()
    with opened(mount / "web", os.O_RDONLY | os.O_DIRECTORY) as directory:
        (mount / "web").rmdir()
        with raises_errno(errno.ESTALE, errno.ENOENT):
            os.open("job", os.O_RDWR | os.O_CREAT, dir_fd=directory)
        with raises_errno(errno.ESTALE, errno.ENOENT):
            os.stat(".ex", dir_fd=directory)
        (mount / "web").mkdir()
        with raises_errno(errno.ESTALE, errno.ENOENT):
            os.open("job", os.O_RDWR | os.O_CREAT, dir_fd=directory)
    assert os.listdir(mount / "web") == []


# --- rmdir by force --------------------------------------------------------

@pytest.mark.parametrize("kind, expected",
                         [(flock_waiter, errno.ESTALE), (fcntl_waiter, errno.ESTALE), (open_waiter, errno.ENOENT)])
def test_a_forced_rmdir_tells_the_waiters(lockspace, kind, expected):
    touch(lockspace / "job")
    with opened(lockspace / ".ex" / "job"):
        children = [start_waiter(kind, lockspace / "job") for _ in range(3)]
        wait_for_waiters(lockspace, 3)
        put(lockspace / ".force", b"1")
        lockspace.rmdir()
        for child in children:
            with raises_errno(expected):
                child.join()


@pytest.mark.parametrize("how", ["flock", "posix", "ofd", *MODES])
def test_a_forced_rmdir_tells_the_holders(mount, lockspace, how):
    touch(lockspace / "job")
    hold = {"flock": hold_flock, "posix": hold_posix, "ofd": hold_ofd}.get(how)
    path = lockspace / "job" if hold else lockspace / f".{how}" / "job"
    with opened(path) as fd:
        if hold:
            hold(fd)
        put(lockspace / ".force", b"1")
        lockspace.rmdir()
        assert os.listdir(mount) == []
        gone = select.POLLERR | select.POLLHUP
        assert wait_for_poll(fd, select.POLLIN) & gone == gone
        with raises_errno(errno.ESTALE):
            os.pread(fd, 32, 0)
        with raises_errno(errno.ESTALE):
            os.pwrite(fd, b"x", 0)
        with raises_errno(errno.ESTALE, *([] if hold else [errno.EOPNOTSUPP])):
            fcntl.flock(fd, fcntl.LOCK_EX)
        lockspace.mkdir()                       # the lock does not haunt its successor
        with opened(lockspace / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK):
            pass


def test_a_forced_rmdir_wakes_a_holder_in_poll(lockspace):
    def poller(peer):
        with opened(lockspace / ".ex" / "job") as fd:
            peer.say("holds")
            return wait_for_poll(fd, 0)         # POLLERR and POLLHUP need not be asked for

    child = Child(poller)
    child.wait_for("holds")
    put(lockspace / ".force", b"1")
    lockspace.rmdir()
    gone = select.POLLERR | select.POLLHUP
    assert child.join() & gone == gone


def test_a_forced_rmdir_of_an_idle_lockspace_is_an_ordinary_one(mount, lockspace):
    put(lockspace / ".force", b"1")
    lockspace.rmdir()
    assert os.listdir(mount) == []


def test_a_forced_rmdir_leaves_other_lockspaces_alone(mount, lockspace):
    other = make_lockspace(mount, "other")
    put(other / ".ex" / "rev", b"42")
    with opened(other / ".ex" / "job") as kept, opened(lockspace / ".ex" / "job"):
        put(lockspace / ".force", b"1")
        lockspace.rmdir()
        assert [row["state"] for row in locks(other) if row["resource"] == "job"] == ["held"]
        assert os.write(kept, b"alive") == 5
        assert get(other / "rev") == b"42"


def test_the_commands_of_the_page(mount):
    """mkdir, flock, a mode directory, a value, EBUSY, force: as people type them."""
    done = shell("""
        set -e
        mkdir web
        flock web/deploy echo deployed
        exec 9>web/.ex/deploy
        rmdir web 2>/dev/null && exit 1
        exec 9>&-
        echo "rev 42" >web/.ex/rev
        cat web/.pr/rev
        exec 9>web/.ex/deploy
        echo 1 >web/.force
        rmdir web
        exec 9>&-
        ls
    """, cwd=mount)
    assert (done.returncode, done.stdout, done.stderr) == (0, "deployed\nrev 42\n", "")


def test_force_counts_at_the_next_rmdir_and_may_be_taken_back(lockspace):
    with opened(lockspace / ".ex" / "job") as fd:
        put(lockspace / ".force", b"1")
        assert os.write(fd, b"x") == 1
        put(lockspace / ".force", b"0")
        with raises_errno(errno.EBUSY):
            lockspace.rmdir()
    with as_user(NOBODY):
        assert get(lockspace / ".pr" / "job") == b"x"
