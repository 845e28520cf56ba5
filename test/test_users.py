"""What each kind of user may do with each path of the tree, as a table; and how far one of them gets who wants too much.

test_permissions.py goes through the modes of one kind of path; here the modes are fixed and the paths are all there are.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import subprocess
import time

import pytest

from lockspacefs_test import (GROUP, MODES, NOBODY, SOMEBODY, TIMEOUT, Child, errno_of, get, lockspacefs, make_lockspace,
                              opened, put, raises_errno, run_as, status, touch, wait_until)
from locking import PROMPT

F_OFD_SETLK = 37
OK = {0}
ACCES, PERM, BADF, NOLCK, NOTSUP = ({number} for number in [errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
EXIST, BUSY, INVAL, FBIG = ({number} for number in [errno.EEXIST, errno.EBUSY, errno.EINVAL, errno.EFBIG])
DENIED = ACCES | PERM                           # which of the two is the kernel's order of checks
REFUSED = DENIED | NOTSUP

USERS = {                                       # columns of the table: uid, gid, supplementary groups
    "root": (0, 0, []),
    "owner": (SOMEBODY, SOMEBODY, []),
    "member": (NOBODY, NOBODY, [GROUP]),
    "other": (NOBODY, NOBODY, []),
}


# --- what is tried: each leaves things as they were ---------------------------

def opens(flags):
    return lambda path: os.close(os.open(path, flags | os.O_NONBLOCK))


def flocks(flags, operation):
    def attempt(path):
        with opened(path, flags) as fd:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
    return attempt


def fcntls(flags, kind, command=fcntl.F_SETLK, length=0):
    def attempt(path):
        with opened(path, flags) as fd:
            fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, length, 0))
    return attempt


def writes(data):
    def attempt(path):
        with opened(path, os.O_WRONLY) as fd:
            os.write(fd, data)
    return attempt


def chmods(path):
    os.chmod(path, stat.S_IMODE(path.stat().st_mode))


def chowns(path):
    uid = path.stat().st_uid
    os.chown(path, NOBODY, -1)
    os.chown(path, uid, -1)


def makes_and_unlinks(path):
    touch(path)
    os.unlink(path)


def makes_and_removes(path):
    os.mkdir(path)
    os.rmdir(path)


def sets(name, value):
    return lambda path: os.setxattr(path, name, value)


def renames(path):
    os.rename(path, path.parent / "renamed")


def links(path):
    os.link(path, path.parent / "linked")


def lists_nothing(path):
    assert os.listdir(path) == []


def sees_the_holder(path):
    assert b"held-by-root\theld\tEX" in get(path)


READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
SH, EX = fcntl.LOCK_SH, fcntl.LOCK_EX
RDLCK, WRLCK = fcntl.F_RDLCK, fcntl.F_WRLCK

TABLE = [                                       # path, what, and what root, owner, member and other get
    # the root, mode 1777, root's
    (".", os.listdir, OK, OK, OK, OK),
    (".", chmods, OK, PERM, PERM, PERM),
    (".", chowns, OK, PERM, PERM, PERM),
    (".", lambda path: os.utime(path, (1, 1)), OK, PERM, PERM, PERM),
    (".", sets("user.force", b"1"), REFUSED, REFUSED, REFUSED, REFUSED),
    ("new-space", makes_and_removes, OK, OK, OK, OK),
    ("new", touch, PERM, PERM, PERM, PERM),
    ("new", lambda path: os.symlink("web", path), PERM, PERM, PERM, PERM),
    ("new", os.mkfifo, PERM, PERM, PERM, PERM),
    *((name, what, *column) for name in [".status", ".metrics", "web/.locks"] for what, *column in [
        (os.stat, OK, OK, OK, OK),
        (get, OK, OK, OK, OK),
        (opens(WRITE), ACCES, ACCES, ACCES, ACCES),
        (opens(BOTH), ACCES, ACCES, ACCES, ACCES),
        (lambda path: os.truncate(path, 0), ACCES, ACCES, ACCES, ACCES),
        (flocks(READ, EX), NOTSUP, NOTSUP, NOTSUP, NOTSUP),
        (fcntls(READ, RDLCK), NOTSUP, NOTSUP, NOTSUP, NOTSUP),
        (chmods, PERM, DENIED, DENIED, DENIED),
        (chowns, PERM, PERM, PERM, PERM),
        (os.unlink, PERM, DENIED, DENIED, DENIED),
        (renames, PERM, DENIED, DENIED, DENIED),
        (sets("user.value", b"x"), REFUSED, REFUSED, REFUSED, REFUSED),
    ]),
    ("web/.locks", sees_the_holder, OK, OK, OK, OK),
    # a lockspace, mode 0775, the owner's and the group's; a lock is held there
    ("web", os.listdir, OK, OK, OK, OK),
    ("web", os.rmdir, BUSY, BUSY, DENIED, DENIED),
    ("web", os.unlink, {errno.EISDIR, errno.EPERM}, {errno.EISDIR, errno.EPERM}, DENIED, DENIED),
    ("web", renames, PERM, PERM, DENIED, DENIED),
    ("web", chmods, OK, OK, PERM, PERM),
    ("web", chowns, OK, PERM, PERM, PERM),
    ("web", lambda path: os.utime(path, (1, 1)), OK, OK, PERM, PERM),
    ("web", os.utime, OK, OK, OK, ACCES),
    ("web", lambda path: os.getxattr(path, "user.force"), OK, OK, DENIED, DENIED),
    ("web", sets("user.force", b"0"), OK, OK, DENIED, DENIED),
    ("web/.force", opens(READ), OK, OK, DENIED, DENIED),
    ("web/.force", writes(b"0"), OK, OK, DENIED, DENIED),
    ("web/.force", writes(b"maybe"), INVAL, INVAL, DENIED, DENIED),
    ("web/.force", chmods, PERM, PERM, PERM, PERM),
    ("web/.force", chowns, PERM, PERM, PERM, PERM),
    ("web/.force", os.unlink, PERM, PERM, PERM, DENIED),
    ("web/new", makes_and_unlinks, OK, OK, OK, ACCES),
    ("web/new", lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, 0x103), PERM, PERM, PERM, DENIED),
    ("web/new", os.mkfifo, PERM, PERM, PERM, DENIED),
    ("web/new", os.mkdir, PERM, PERM, PERM, DENIED),
    ("web/new", lambda path: os.symlink("job", path), PERM, PERM, PERM, DENIED),
    ("web/%41", touch, INVAL, INVAL, INVAL, DENIED),
    # a lock file, mode 0640, the owner's and the group's
    ("web/job", os.stat, OK, OK, OK, OK),
    ("web/job", opens(READ), OK, OK, OK, ACCES),
    ("web/job", opens(WRITE), OK, OK, ACCES, ACCES),
    ("web/job", opens(BOTH), OK, OK, ACCES, ACCES),
    ("web/job", flocks(READ, SH), OK, OK, OK, ACCES),
    ("web/job", flocks(READ, EX), OK, OK, ACCES, ACCES),
    ("web/job", flocks(WRITE, SH), OK, OK, ACCES, ACCES),
    ("web/job", flocks(BOTH, EX), OK, OK, ACCES, ACCES),
    *(("web/job", what, *column) for command in [fcntl.F_SETLK, F_OFD_SETLK] for what, *column in [
        (fcntls(READ, RDLCK, command), OK, OK, OK, ACCES),
        (fcntls(READ, WRLCK, command), BADF, BADF, BADF, ACCES),
        (fcntls(WRITE, RDLCK, command), BADF, BADF, ACCES, ACCES),
        (fcntls(BOTH, WRLCK, command), OK, OK, ACCES, ACCES),
        (fcntls(READ, RDLCK, command, 1), NOTSUP, NOTSUP, NOTSUP, ACCES),
    ]),
    ("web/job", get, OK, OK, OK, ACCES),
    ("web/job", lambda path: os.getxattr(path, "user.value"), OK, OK, OK, ACCES),
    ("web/job", sets("user.value", bytes(32)), PERM, PERM, DENIED, DENIED),
    ("web/job", writes(b"x"), NOLCK, NOLCK, ACCES, ACCES),
    ("web/job", lambda path: os.truncate(path, 0), OK, OK, ACCES, ACCES),
    ("web/job", chmods, OK, OK, PERM, PERM),
    ("web/job", chowns, OK, PERM, PERM, PERM),
    ("web/job", lambda path: os.utime(path, (1, 1)), OK, OK, PERM, PERM),
    ("web/job", os.utime, OK, OK, ACCES, ACCES),
    ("web/job", renames, PERM, PERM, PERM, DENIED),
    ("web/job", links, PERM, PERM, PERM, DENIED),
    # the mode directories
    *((f"web/.{mode}", what, *column) for mode in MODES for what, *column in [
        (lists_nothing, OK, OK, OK, OK),
        (chmods, PERM, PERM, PERM, PERM),
        (chowns, PERM, PERM, PERM, PERM),
        (os.rmdir, PERM, PERM, PERM, DENIED),
        (renames, PERM, PERM, PERM, DENIED),
    ]),
    # … and the same file there
    *((f"web/.{mode}/job", what, *column) for mode in MODES for what, *column in [
        (os.stat, OK, OK, OK, OK),
        (opens(READ), OK, OK, OK if mode in ["nl", "cr", "pr"] else ACCES, ACCES),
        (opens(WRITE), OK, OK, ACCES, ACCES),
        (opens(BOTH), OK, OK, ACCES, ACCES),
        (opens(BOTH | os.O_CREAT | os.O_EXCL), EXIST, EXIST, EXIST, EXIST),
        (os.mkdir, EXIST, EXIST, EXIST, EXIST),
        (flocks(WRITE, SH), NOTSUP, NOTSUP, ACCES, ACCES),
        (writes(b"x"), *([OK, OK] if mode in ["pw", "ex"] else [NOLCK, NOLCK]), ACCES, ACCES),
        (writes(bytes(33)), *([FBIG, FBIG] if mode in ["pw", "ex"] else [FBIG | NOLCK, FBIG | NOLCK]), ACCES, ACCES),
        (chmods, PERM, PERM, PERM, PERM),
        (chowns, PERM, PERM, PERM, PERM),
        (os.unlink, PERM, PERM, PERM, DENIED),
        (renames, PERM, PERM, PERM, DENIED),
    ]),
]


@pytest.fixture
def tree(make_daemon):
    """A mount where everybody makes lockspaces; web and job belong to the owner."""
    mount = make_daemon("mode=1777").mountpoint
    web = make_lockspace(mount, "web", 0o775)
    put(web / ".ex" / "job", b"42")
    os.chmod(web / "job", 0o640)
    for path in [web, web / "job"]:
        os.chown(path, SOMEBODY, GROUP)
    return mount


def surprises(tree, column):
    """Of the table: line, path and errno where that user gets something else. One process tries all."""
    found = []
    for number, (path, what, *columns) in enumerate(TABLE):
        seen = errno_of(what, tree / path)
        if seen not in columns[column]:
            found.append((number, path, getattr(what, "__qualname__", what), errno.errorcode.get(seen, "no error"),
                          sorted(errno.errorcode.get(expected, "no error") for expected in columns[column])))
    return found


@pytest.mark.parametrize("user", USERS)
def test_what_each_user_may_do_with_each_path(tree, user):
    uid, gid, groups = USERS[user]
    with opened(tree / "web" / ".ex" / "held-by-root"):
        before = (tree / "web" / "job").stat()
        assert run_as(uid, lambda: surprises(tree, list(USERS).index(user)), gid=gid, groups=groups) == []
        after = (tree / "web" / "job").stat()
    assert os.listdir(tree) == ["web"] and os.listdir(tree / "web") == ["job"]
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, SOMEBODY, GROUP)
    assert get(tree / "web" / "job") in ([b"x2"] if user in ("root", "owner") else [b"42"])


def test_nothing_in_a_closed_lockspace_is_for_others(tree):
    os.chmod(tree / "web", 0o770)
    paths = sorted({path for path, *_ in TABLE if path.startswith("web/")} | {"web/unlisted", "web/.ex/unlisted"})

    def tried():
        return {(path, what.__name__): errno_of(what, tree / path) for path in paths for what in [os.stat, get, touch, os.unlink]}

    wrong = {key: number for key, number in run_as(NOBODY, tried).items() if number != errno.EACCES}
    assert wrong == {}
    assert set(run_as(NOBODY, lambda: [errno_of(os.stat, tree / path) for path in paths], groups=[GROUP])) <= {0, errno.ENOENT}


# --- too much of everything --------------------------------------------------

def default_limit(name):
    line, = [line for line in lockspacefs("--help").stdout.splitlines() if name in line]
    return int(re.search(r"\((\d+)\)", line)[1])


@contextlib.contextmanager
def greedy(*command):
    """A helper program as an ordinary user; ends at the end of its input."""
    with subprocess.Popen([*map(str, command)], user=NOBODY, group=NOBODY, extra_groups=[], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(TIMEOUT)


def lock_and_unlock(path):
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        for lock in [fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]:
            fcntl.flock(fd, lock)


def the_others_are_served(web):
    for uid in [SOMEBODY, 0]:
        run_as(uid, lambda: lock_and_unlock(web / f"of-{uid}"))


def copied(helpers, name, directory):
    """A helper where an ordinary user gets at it."""
    program = directory / name
    program.write_bytes((helpers / name).read_bytes())
    program.chmod(0o755)
    return program


def test_a_user_with_all_the_locks_he_may_have(make_daemon, helpers, directory, engine):
    limit = default_limit("max_locks=N") if engine == "local" else 1000
    daemon = make_daemon(f"max_locks={limit}")
    web = make_lockspace(daemon.mountpoint, "web", 0o777)
    with greedy(copied(helpers, "hold", directory), "flock", web, "job", limit, "numbered") as holder:
        assert holder.stdout.readline() == "held\n"
        assert status(daemon.mountpoint)["held"] == limit
        for more in [lock_and_unlock, lambda path: os.open(web / ".nl" / path.name, os.O_RDWR)]:
            with raises_errno(errno.ENOLCK):
                run_as(NOBODY, lambda: more(web / "job0"))
        the_others_are_served(web)
    wait_until(lambda: status(daemon.mountpoint)["held"] == 0)
    run_as(NOBODY, lambda: lock_and_unlock(web / "job0"))


def test_a_user_with_all_the_waiters_he_may_have(make_daemon, helpers, directory, engine):
    limit = default_limit("max_waiters=N") if engine == "local" else 500
    daemon = make_daemon(f"max_waiters={limit}")
    web = make_lockspace(daemon.mountpoint, "web", 0o777)
    touch(web / "job")
    os.chmod(web / "job", 0o666)
    with greedy(copied(helpers, "waiters", directory), web / "job", limit) as crowd:
        assert crowd.stdout.readline() == "opened\n"
        with opened(web / ".ex" / "job"):
            crowd.stdin.write("block\n")
            crowd.stdin.flush()
            wait_until(lambda: status(daemon.mountpoint)["waiting"] == limit)
            with raises_errno(errno.ENOLCK):
                run_as(NOBODY, lambda: lock_and_unlock(web / "job"))
            run_as(NOBODY, lambda: lock_and_unlock(web / "free"))       # no wait, no limit
            the_others_are_served(web)
            waiting = Child(lambda peer: lock_and_unlock(web / "job"), uid=SOMEBODY)
            wait_until(lambda: status(daemon.mountpoint)["waiting"] == limit + 1)
        assert crowd.stdout.readline() == f"granted {limit}\n"
        waiting.join()
    wait_until(lambda: [status(daemon.mountpoint)[what] for what in ("held", "waiting")] == [0, 0])


def test_a_user_with_all_the_files_he_may_have(make_daemon):
    limit = 2000
    mount = make_daemon(f"max_files={limit}").mountpoint
    web = make_lockspace(mount, "web", 0o777)

    def make_all():
        made = 0
        while errno_of(os.mknod, web / f"job-{made}", 0o666 | stat.S_IFREG) == 0:
            made += 1
        with raises_errno(errno.ENOSPC):
            os.stat(web / ".ex" / "unlisted")
        with raises_errno(errno.ENOSPC):
            touch(web / "one-too-many")
        return made, len(os.listdir(web))

    assert run_as(NOBODY, make_all) == (limit, limit)
    the_others_are_served(web)

    def remove():
        for name in os.listdir(web):
            if name.startswith("job-"):
                os.unlink(web / name)
        wait_until(lambda: errno_of(touch, web / "later") == 0)
        os.unlink(web / "later")

    run_as(NOBODY, remove)
    wait_until(lambda: status(mount)["files"] == 2)


def test_a_user_with_as_many_files_as_he_may_have_by_default(daemon):
    web = make_lockspace(daemon.mountpoint, "web", 0o777)

    def make(first, count):
        """As many as that, or fewer: then the errno of the next."""
        for number in range(first, first + count):
            if refused := errno_of(os.mknod, web / f"job-{number}", 0o666 | stat.S_IFREG):
                return number, refused
        return first + count, 0

    made, refused = 0, 0
    while refused == 0:
        made, refused = run_as(NOBODY, lambda: make(made, 20000))
    assert (made, refused) == (default_limit("max_files=N"), errno.ENOSPC)
    for _ in range(3):
        started = time.monotonic()
        the_others_are_served(web)
        assert time.monotonic() - started < PROMPT


# --- names of every length ----------------------------------------------------

NAMES = [("a", 1), ("%01", 1), ("%2F", 1), ("\N{LATIN SMALL LETTER E WITH ACUTE}", 2)]  # one character of a name, its bytes


@pytest.mark.parametrize("character, size", NAMES)
def test_names_of_every_length(lockspace, character, size):
    def attempt():
        wrong = []
        for length in [*range(1, 300), 1000, 1400]:
            name = character * length
            if len(os.fsencode(name)) > 4000:
                continue
            expected = 0 if length * size <= 64 else errno.ENAMETOOLONG
            seen = [errno_of(touch, lockspace / name), errno_of(os.stat, lockspace / ".nl" / name),
                    errno_of(os.mkdir, lockspace / name)]
            if seen != [expected, expected, errno.EEXIST if expected == 0 else expected]:
                wrong.append((length, seen))
            if expected == 0:
                os.unlink(lockspace / name)
        return wrong

    assert run_as(NOBODY, attempt) == []


def test_lockspace_names_of_every_length(make_daemon):
    mount = make_daemon("mode=1777").mountpoint

    def attempt():
        wrong = []
        for length in [*range(1, 70), 128, 255, 256, 1000]:
            seen = errno_of(makes_and_removes, mount / ("a" * length))
            if seen != (0 if length <= 64 else errno.ENAMETOOLONG):
                wrong.append((length, seen))
        return wrong

    assert run_as(NOBODY, attempt) == []


# --- big writes, many open files ---------------------------------------------

def test_a_big_write_is_refused_whole(lockspace):
    def attempt():
        with opened(lockspace / ".ex" / "rev") as fd:
            os.write(fd, b"42")
            for data, offset in [(b"x" * 33, 0), (b"x", 32), (bytes(1 << 20), 0), (bytes(64 << 20), 0), (b"x", (1 << 63) - 2)]:
                with raises_errno(errno.EFBIG):
                    os.pwrite(fd, data, offset)
            assert os.pread(fd, 100, 0) == b"42"

    run_as(NOBODY, attempt)
    assert get(lockspace / "rev") == b"42"
    the_others_are_served(lockspace)


def test_many_open_files(mount, lockspace):
    touch(lockspace / "job")
    os.chmod(lockspace / "job", 0o666)

    def attempt(peer):
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                for path in [lockspace / "job", lockspace / ".nl" / "job", lockspace / ".locks", mount / ".status"]:
                    stack.enter_context(opened(path, os.O_RDONLY))
            peer.say("open")
            peer.wait_for("close")

    child = Child(attempt, uid=NOBODY)
    child.wait_for("open")
    the_others_are_served(lockspace)
    child.say("close")
    child.join()
    wait_until(lambda: status(mount)["held"] == 0)
