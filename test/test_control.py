"""The files that are no locks: `.force`, `.locks` and `.status`, and the xattrs beside them."""

import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path

import pytest

from locking import flock_waiter
from lockspacefs_test import (MODES, NOBODY, Child, get, locks, lockspacefs, make_lockspace, opened, put, raises_errno,
                              run_as, shell, status, touch, wait_for_waiters, wait_until)

F_OFD_SETLK = 37
LOCK_COLUMNS = ["resource", "state", "mode", "wanted", "node", "pid", "command", "by", "seconds"]
STATUS_NAMES = ["version", "pid", "engine", "node", "members", "quorum", "control", "ending", "lockspaces", "files", "held", "waiting", "requests", "seconds"]


def own_name():
    return Path("/proc/self/comm").read_text().strip()


def ofd(fd, kind):
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


# --- .force and user.force -----------------------------------------------------

def test_force_is_0_at_first(lockspace):
    assert get(lockspace / ".force").strip() == b"0"
    assert os.getxattr(lockspace, "user.force") == b"0"


@pytest.mark.parametrize("written", [b"1", b"1\n"])
def test_force_is_switched_by_writing(lockspace, written):
    put(lockspace / ".force", written)
    assert get(lockspace / ".force").strip() == b"1"
    assert os.getxattr(lockspace, "user.force") == b"1"
    put(lockspace / ".force", written.replace(b"1", b"0"))
    assert get(lockspace / ".force").strip() == b"0"
    assert os.getxattr(lockspace, "user.force") == b"0"


def test_force_is_switched_by_its_xattr(lockspace):
    for value in [b"1", b"0", b"1"]:
        os.setxattr(lockspace, "user.force", value)
        assert os.getxattr(lockspace, "user.force") == value
        assert get(lockspace / ".force").strip() == value


@pytest.mark.parametrize("written",
                         [b"2", b"-1", b"yes", b"\n", b" ", b"01", b"11", b"1 1", b"0x1", b"1\n1\n", b"\0", b"true",
                          b"1" * 5000])
def test_anything_else_is_einval(lockspace, written):
    put(lockspace / ".force", b"1")
    with opened(lockspace / ".force", os.O_WRONLY) as fd:
        with raises_errno(errno.EINVAL):
            os.write(fd, written)
    assert get(lockspace / ".force").strip() == b"1"


@pytest.mark.parametrize("value", [b"", b"2", b"yes", b"00", b"1" * 100])
def test_any_other_value_of_user_force_is_einval(lockspace, value):
    os.setxattr(lockspace, "user.force", b"1")
    with raises_errno(errno.EINVAL):
        os.setxattr(lockspace, "user.force", value)
    assert os.getxattr(lockspace, "user.force") == b"1"


def test_user_force_is_listed_and_not_removed(lockspace):
    assert "user.force" in os.listxattr(lockspace)
    with raises_errno(errno.EPERM, errno.EOPNOTSUPP, errno.EACCES):
        os.removexattr(lockspace, "user.force")
    assert os.getxattr(lockspace, "user.force") == b"0"


def test_user_force_belongs_to_lockspaces_alone(mount, lockspace):
    touch(lockspace / "job")
    for path in [mount, lockspace / "job", lockspace / ".ex"]:
        with raises_errno(errno.ENODATA):
            os.getxattr(path, "user.force")
        with raises_errno(errno.EPERM, errno.EOPNOTSUPP):
            os.setxattr(path, "user.force", b"1")


@pytest.mark.parametrize("command, expected", [
    ("echo 1 >.force; cat .force", "1"), ("echo 1 >>.force; cat .force", "1"), ("printf 1 | tee .force", "1"),
    ("echo 1 >.force; echo 0 >.force; cat .force", "0"), ("printf 1 | dd of=.force status=none; cat .force", "1"),
    ("setfattr -n user.force -v 1 .; getfattr --only-values -n user.force .", "1"),
    ("read -r flag <.force; echo $flag", "0"), ("head -c 1 .force", "0"), ("grep -c 0 .force", "1"),
])
def test_force_in_the_shell(lockspace, command, expected):
    done = shell(command, cwd=lockspace)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, "")


def test_force_belongs_to_one_lockspace(mount, lockspace):
    other = make_lockspace(mount, "other")
    put(lockspace / ".force", b"1")
    assert get(other / ".force").strip() == b"0"


def test_force_takes_no_lock(lockspace):
    touch(lockspace / "job")
    with opened(lockspace / ".force") as fd:
        assert locks(lockspace) == []
        with raises_errno(errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK):
            fcntl.lockf(fd, fcntl.LOCK_EX)
    lockspace.rmdir()


# --- .locks --------------------------------------------------------------------

def test_locks_begins_with_a_header(lockspace):
    assert get(lockspace / ".locks").decode() == "\t".join(LOCK_COLUMNS) + "\n"


def check_held(row, mode, by):
    assert list(row) == LOCK_COLUMNS
    if by == "ofd" and not Path("/proc/self/syscall").exists():
        by = "posix"                            # User-Mode Linux: nothing there tells the two apart
    assert (row["resource"], row["state"], row["mode"], row["wanted"], row["by"]) == ("job", "held", mode, "-", by)
    assert (row["pid"], row["command"]) == (os.getpid(), own_name())
    assert row["seconds"] >= 0


@pytest.mark.parametrize("by, lock, mode", [
    ("flock", lambda fd: fcntl.flock(fd, fcntl.LOCK_SH), "PR"),
    ("flock", lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), "EX"),
    ("posix", lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH), "PR"),
    ("posix", lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX), "EX"),
    ("ofd", lambda fd: ofd(fd, fcntl.F_RDLCK), "PR"), ("ofd", lambda fd: ofd(fd, fcntl.F_WRLCK), "EX"),
])
def test_locks_shows_who_holds_a_lock_and_how(lockspace, by, lock, mode):
    touch(lockspace / "job")
    with opened(lockspace / "job") as fd:
        lock(fd)
        row, = locks(lockspace)
        check_held(row, mode, by)
    assert locks(lockspace) == []


@pytest.mark.parametrize("mode", MODES)
def test_locks_shows_the_mode_directories(lockspace, mode):
    with opened(lockspace / f".{mode}" / "job"):
        row, = locks(lockspace)
        check_held(row, mode.upper(), "open")
    assert locks(lockspace) == []


def test_locks_shows_the_node(lockspace, engine):
    with opened(lockspace / ".ex" / "job"):
        row, = locks(lockspace)
    if engine == "local":
        assert row["node"] == 0                 # there is no cluster
    else:
        assert row["node"] > 0
    assert row["node"] == status(lockspace.parent)["node"]


def test_locks_shows_who_waits(lockspace):
    touch(lockspace / "job")
    (lockspace / "job").chmod(0o666)
    with opened(lockspace / ".ex" / "job"):
        child = Child(flock_waiter, lockspace / "job", uid=NOBODY)
        child.wait_for("asks")
        row, = wait_for_waiters(lockspace)
        assert (row["resource"], row["state"], row["wanted"], row["by"], row["pid"]) == ("job", "waiting", "EX",
                                                                                         "flock", child.pid)
        assert len(locks(lockspace)) == 2
        child.kill()
        wait_until(lambda: len(locks(lockspace)) == 1)


def test_locks_shows_who_waits_in_open(lockspace):
    def wait(peer):
        os.open(lockspace / ".cw" / "job", os.O_RDWR)

    with opened(lockspace / ".pr" / "job"):
        child = Child(wait)
        row, = wait_for_waiters(lockspace)
        assert (row["state"], row["wanted"], row["by"], row["pid"]) == ("waiting", "CW", "open", child.pid)


def test_locks_shows_who_converts(lockspace):
    def convert(peer):
        with opened(lockspace / "job") as fd:
            fcntl.flock(fd, fcntl.LOCK_SH)
            peer.say("shared")
            fcntl.flock(fd, fcntl.LOCK_EX)

    touch(lockspace / "job")
    with opened(lockspace / ".pr" / "job"):
        child = Child(convert)
        child.wait_for("shared")
        row, = wait_for_waiters(lockspace)
        assert (row["resource"], row["wanted"], row["by"], row["pid"]) == ("job", "EX", "flock", child.pid)
        assert (row["state"], row["mode"]) == ("converting", "PR")
    child.join()


def test_locks_counts_the_seconds(lockspace):
    with opened(lockspace / ".ex" / "job"):
        begin = time.monotonic()
        assert locks(lockspace)[0]["seconds"] <= 1 + time.monotonic() - begin
        wait_until(lambda: locks(lockspace)[0]["seconds"] >= 2)
        assert 1 <= time.monotonic() - begin < 20


def test_locks_is_as_of_its_open(lockspace):
    with opened(lockspace / ".locks", os.O_RDONLY) as before:
        with opened(lockspace / ".ex" / "job"):
            assert os.pread(before, 65536, 0).decode() == "\t".join(LOCK_COLUMNS) + "\n"
            with opened(lockspace / ".locks", os.O_RDONLY) as during:
                whole = os.pread(during, 65536, 0)
        assert whole.count(b"\n") == 2
        pieces = b""
        with opened(lockspace / ".ex" / "another"):
            with opened(lockspace / ".locks", os.O_RDONLY) as fd:
                first = os.pread(fd, 65536, 0)
                while piece := os.read(fd, 7):
                    pieces += piece
                    touch(lockspace / "noise")
        assert pieces == first


def test_locks_reads_in_any_order(lockspace):
    with opened(lockspace / ".ex" / "job"), opened(lockspace / ".locks", os.O_RDONLY) as fd:
        whole = os.pread(fd, 65536, 0)
        assert os.pread(fd, 10, 20) == whole[20:30]
        assert os.pread(fd, 65536, 5) == whole[5:]
        assert os.pread(fd, 10, len(whole)) == b""
        assert os.pread(fd, 10, 1 << 30) == b""
        assert os.lseek(fd, 0, os.SEEK_SET) == 0
        assert os.read(fd, 65536) == whole


def test_locks_of_thousands(lockspace, engine):
    count = 5000 if engine == "local" else 1000
    files = [os.open(lockspace / ".ex" / f"job-{i}", os.O_RDWR) for i in range(count)]
    try:
        table = locks(lockspace)
        assert sorted(row["resource"] for row in table) == sorted(f"job-{i}" for i in range(count))
        assert {row["mode"] for row in table} == {"EX"}
    finally:
        for fd in files:
            os.close(fd)
    assert locks(lockspace) == []


def test_locks_is_not_written(lockspace):
    with raises_errno(errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL):
        with opened(lockspace / ".locks", os.O_WRONLY) as fd:
            os.write(fd, b"x")
    assert get(lockspace / ".locks").startswith(b"resource")


@pytest.mark.parametrize("command", ["a b", "tab\there", "line\nhere", "\xff\x01", "percent%"])
def test_a_strange_command_name_does_not_break_the_table(lockspace, command):
    def hold(peer):
        Path("/proc/self/comm").write_bytes(command.encode("latin-1"))
        with opened(lockspace / ".ex" / "job"):
            peer.say("holds")
            peer.wait_for("done")

    child = Child(hold)
    child.wait_for("holds")
    assert len(get(lockspace / ".locks").splitlines()) == 2
    row, = locks(lockspace)
    assert (row["pid"], row["by"]) == (child.pid, "open")


def test_a_strange_resource_name_does_not_break_the_table(lockspace):
    with opened(lockspace / ".ex" / "tab%09line%0Ablank here"):
        row, = locks(lockspace)
        assert row["resource"] == "tab%09line%0Ablank here"


def test_locks_of_one_lockspace_are_not_those_of_another(mount, lockspace):
    other = make_lockspace(mount, "other")
    with opened(lockspace / ".ex" / "job"):
        assert locks(other) == []
        assert len(locks(lockspace)) == 1


def test_locks_for_awk(lockspace):
    with opened(lockspace / ".ex" / "job"):
        done = shell("awk -F'\\t' 'NR > 1 && $2 == \"held\" { print $1, $3, $6 }' .locks", cwd=lockspace)
        assert done.stdout == f"job EX {os.getpid()}\n"


def test_a_closed_lockspace_shows_its_locks_to_nobody(mount):
    web = make_lockspace(mount, "web", 0o700)
    with raises_errno(errno.EACCES):
        run_as(NOBODY, lambda: get(web / ".locks"))


# --- .status -------------------------------------------------------------------

def test_status_is_one_name_and_value_a_line(mount):
    lines = get(mount / ".status").decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == STATUS_NAMES
    assert all(len(line.split(" ")) == 2 for line in lines)


def test_status_says_what_runs_here(mount, engine):
    seen = status(mount)
    assert seen["engine"] == engine
    assert str(seen["version"]) in lockspacefs("--version").stdout.split()
    assert seen["node"] == 0 if engine == "local" else seen["node"] > 0


def test_status_of_an_idle_mount(mount):
    seen = status(mount)
    assert (seen["lockspaces"], seen["files"], seen["held"], seen["waiting"]) == (0, 0, 0, 0)


def test_status_counts(mount, lockspace):
    other = make_lockspace(mount, "other")
    for path in [lockspace / "a", lockspace / "b", other / "a"]:
        touch(path)
    seen = status(mount)
    assert (seen["lockspaces"], seen["files"], seen["held"], seen["waiting"]) == (2, 3, 0, 0)
    with opened(lockspace / "a") as shared, opened(other / ".ex" / "a"):
        fcntl.flock(shared, fcntl.LOCK_SH)
        child = Child(flock_waiter, lockspace / "a")
        wait_for_waiters(lockspace)
        seen = status(mount)
        assert (seen["held"], seen["waiting"]) == (2, 1)
        child.kill()
        wait_until(lambda: status(mount)["waiting"] == 0)
    (lockspace / "b").unlink()
    other.joinpath("a").unlink()
    other.rmdir()
    seen = status(mount)
    assert (seen["lockspaces"], seen["files"], seen["held"], seen["waiting"]) == (1, 1, 0, 0)


def test_status_has_lines_for_each_lockspace(mount, lockspace):
    make_lockspace(mount, "other")
    touch(lockspace / "a")
    with opened(lockspace / ".ex" / "a"):
        child = Child(flock_waiter, lockspace / "a")
        wait_for_waiters(lockspace)
        seen = status(mount)
        child.kill()
    assert list(seen)[len(STATUS_NAMES):] == [f"{name}/{field}" for name in ["other", "web"]
                                              for field in ["state", "files", "held", "waiting"]]
    assert [seen[f"web/{field}"] for field in ["state", "files", "held", "waiting"]] == ["active", 1, 1, 1]
    assert [seen[f"other/{field}"] for field in ["state", "files", "held", "waiting"]] == ["active", 0, 0, 0]


def test_status_of_the_cluster(mount, engine):
    if engine == "dlm":                         # corosync has said its first word
        wait_until(lambda: status(mount)["quorum"] != "-")
    seen = status(mount)
    expected = ("-", "-", "-") if engine == "local" else (seen["node"], "yes", "yes")
    assert (seen["members"], seen["quorum"], seen["control"], seen["ending"]) == (*expected, "no")


def test_status_counts_requests_and_seconds(mount):
    before = status(mount)
    for _ in range(100):
        with raises_errno(errno.ENOENT):
            os.stat(mount / "nothing")
    assert status(mount)["requests"] >= before["requests"] + 100
    wait_until(lambda: status(mount)["seconds"] >= before["seconds"] + 1)
    assert before["seconds"] < 60


def test_status_is_not_written(mount):
    assert stat.S_IMODE((mount / ".status").stat().st_mode) == 0o444
    with raises_errno(errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL):
        with opened(mount / ".status", os.O_WRONLY) as fd:
            os.write(fd, b"x")


def test_status_for_awk(mount):
    assert shell("awk '$1 == \"engine\" { print $2 }' .status", cwd=mount).stdout.strip() in ("local", "dlm")
