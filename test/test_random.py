"""Random histories: many processes do at once what people do, and no lock is ever held twice.

The seeds are fixed; what differs from run to run is only who comes first.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import select
import signal
import struct

import pytest

from lockspacefs_test import (MODES, NOBODY, SOMEBODY, Child, get, is_free_and_removed, locks, make_lockspace, opened, put,
                              raises_errno, status, touch, wait_for_poll, wait_until)

F_OFD_SETLK, F_OFD_SETLKW = 37, 38
PROCESSES = 8
ROUNDS = {"local": 1000, "dlm": 120}            # a lockspace comes and goes in half a second on dlm
NAMES = ["a", "b", "c"]
USERS = [None, NOBODY, SOMEBODY]

# What a caller may be told, whatever the others do. ENOSYS, EIO, EINVAL … are bugs.
BUSY = {errno.EWOULDBLOCK, errno.EINTR, errno.EDEADLK, errno.ENOENT}
BUSY_OR_GONE = BUSY | {errno.ESTALE, errno.EBUSY, errno.EEXIST, errno.ENOLCK, errno.EOPNOTSUPP}


libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def for_at_most(seconds):
    """A wait in this block is ended by a signal, again and again. The handler
    raises nothing, so that no exception comes between an open and its variable;
    the calls below report EINTR. Python's own begin anew, with twice the time
    each: on a slow machine they would never come to an end."""
    pause = 0.005

    def again(number, frame):
        nonlocal pause
        pause *= 2
        if not is_over:
            signal.setitimer(signal.ITIMER_REAL, pause, pause)

    is_over = False
    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, seconds, pause)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)


def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def c_open(path, flags):
    return call("open", os.fsencode(path), flags | os.O_CLOEXEC, 0o666)


def c_flock(fd, operation):
    call("flock", fd, operation)


def c_fcntl(fd, command, kind):
    call("fcntl", fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


@contextlib.contextmanager
def telling(allowed):
    try:
        yield
    except OSError as error:
        if error.errno not in allowed:
            raise


def lock_by_flock(fd, dice):
    c_flock(fd, fcntl.LOCK_EX | dice.choice([0, fcntl.LOCK_NB]))


def lock_by_way_of_shared(fd, dice):
    c_flock(fd, fcntl.LOCK_SH | dice.choice([0, fcntl.LOCK_NB]))
    c_flock(fd, fcntl.LOCK_EX | dice.choice([0, fcntl.LOCK_NB]))


def lock_by_fcntl(fd, dice):
    c_fcntl(fd, dice.choice([fcntl.F_SETLK, fcntl.F_SETLKW]), fcntl.F_WRLCK)


def lock_by_ofd(fd, dice):
    c_fcntl(fd, dice.choice([F_OFD_SETLK, F_OFD_SETLKW]), fcntl.F_WRLCK)


LOCKS = [lock_by_flock, lock_by_way_of_shared, lock_by_fcntl, lock_by_ofd, None]


def take_turns(peer, lockspace, tokens, rounds, seed):
    """Lock one resource exclusively in some way; while it is ours, a token is ours, too."""
    dice = random.Random(seed)
    taken = 0
    for _ in range(rounds):
        name, lock = dice.choice(NAMES), dice.choice(LOCKS)
        with telling(BUSY), for_at_most(dice.choice([0.0005, 0.005, 0.5])):
            if lock is None:
                fd = c_open(lockspace / ".ex" / name, os.O_RDWR | dice.choice([0, os.O_NONBLOCK]))
            else:
                fd = c_open(lockspace / name, os.O_RDWR)
            try:
                if lock is not None:
                    lock(fd, dice)
                signal.setitimer(signal.ITIMER_REAL, 0)
                token = os.open(tokens / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)    # EEXIST: held twice
                os.close(token)
                number = int(os.pread(fd, 100, 0) or b"0")
                os.pwrite(fd, b"%d" % (number + 1), 0)
                taken += 1
                os.unlink(tokens / name)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                os.close(fd)
    return taken


@pytest.mark.parametrize("seed", range(3))
def test_no_lock_is_held_twice_and_no_value_is_lost(mount, lockspace, directory, engine, seed):
    tokens = directory / "tokens"
    tokens.mkdir()
    tokens.chmod(0o777)
    for name in NAMES:
        touch(lockspace / name)
        (lockspace / name).chmod(0o666)
    children = [Child(take_turns, lockspace, tokens, ROUNDS[engine], 1000 * seed + i, uid=USERS[i % 3])
                for i in range(PROCESSES)]
    taken = sum(child.join(120) for child in children)
    assert taken > 0
    assert sum(int(get(lockspace / name) or b"0") for name in NAMES) == taken
    assert locks(lockspace) == []
    seen = status(mount)
    assert (seen["held"], seen["waiting"]) == (0, 0)
    lockspace.rmdir()


def run_wild(peer, mount, rounds, seed):
    """Everything at once, lockspaces removed by force under the others included."""
    dice = random.Random(seed)
    files = []
    for _ in range(rounds):
        web = mount / dice.choice(["one", "two"])
        name = dice.choice(NAMES)
        path = web / dice.choice([name, name, f".{dice.choice(MODES)}/{name}"])
        with telling(BUSY_OR_GONE), for_at_most(dice.choice([0.0005, 0.005, 0.05])):
            match dice.randrange(16):
                case 0 | 1 | 2 | 3:
                    if len(files) > 5:
                        os.close(files.pop(dice.randrange(len(files))))
                    files.append(c_open(path, os.O_RDWR | os.O_CREAT | dice.choice([0, os.O_NONBLOCK])))
                case 4 | 5 if files:
                    c_flock(dice.choice(files), dice.choice([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN])
                            | dice.choice([0, fcntl.LOCK_NB]))
                case 6 | 7 if files:
                    c_fcntl(dice.choice(files), dice.choice([fcntl.F_SETLK, fcntl.F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW]),
                            dice.choice([fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK]))
                case 8 if files:
                    os.pwrite(dice.choice(files), b"x" * dice.randrange(1, 33), 0)
                case 9 if files:
                    dice.choice([os.fsync, os.fstat, lambda fd: os.pread(fd, 32, 0), lambda fd: os.ftruncate(fd, 0),
                                 lambda fd: wait_for_poll(fd, select.POLLPRI, 0.001)])(dice.choice(files))
                case 10 if files:
                    os.close(files.pop(dice.randrange(len(files))))
                case 11:
                    os.unlink(web / name)
                case 12:
                    dice.choice([os.listdir, locks, os.stat])(web)
                case 13:
                    make_lockspace(mount, web.name, 0o777)
                case 14:
                    os.rmdir(web)
                case 15 if dice.randrange(4) == 0:
                    put(web / ".force", b"1")
                    os.rmdir(web)
    for fd in files:
        with telling(BUSY_OR_GONE):
            os.close(fd)


@pytest.mark.parametrize("seed", range(3))
def test_lockspaces_come_and_go_under_everybody(mount, engine, seed):
    """Nobody hangs, nobody is told nonsense, and in the end nothing is left."""
    children = [Child(run_wild, mount, 2 * ROUNDS[engine], 1000 * seed + i) for i in range(PROCESSES)]
    for child in children:
        child.join(120)
    for name in ["one", "two"]:
        wait_until(lambda: is_free_and_removed(mount / name))
    assert os.listdir(mount) == []
    seen = status(mount)
    assert (seen["lockspaces"], seen["files"], seen["held"], seen["waiting"]) == (0, 0, 0, 0)


def test_a_killed_crowd_leaves_nothing(mount, lockspace):
    """SIGKILL in any state of a wait or a hold."""
    dice = random.Random(7)

    def crowd(peer, seed):
        own = random.Random(seed)
        while True:
            with telling(BUSY), opened(lockspace / ".ex" / own.choice(NAMES)):
                pass
            with telling(BUSY), opened(lockspace / own.choice(NAMES), os.O_RDWR | os.O_CREAT) as fd:
                own.choice([lock_by_flock, lock_by_way_of_shared, lock_by_fcntl, lock_by_ofd])(fd, own)

    for wave in range(10):
        children = [Child(crowd, 100 * wave + i) for i in range(PROCESSES)]
        begin = status(mount)["requests"]
        wait_until(lambda: status(mount)["requests"] > begin + dice.randrange(100, 500))
        dice.shuffle(children)
        for child in children:
            child.kill()
    wait_until(lambda: locks(lockspace) == [])
    for name in NAMES:
        with opened(lockspace / ".ex" / name, os.O_RDWR | os.O_NONBLOCK):
            with raises_errno(errno.EBUSY):
                lockspace.rmdir()
    lockspace.rmdir()
