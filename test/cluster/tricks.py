"""What an actor can do besides what the tests of the mount share: see actors.py. It runs on the node."""

import contextlib
import ctypes
import errno
import os
import signal
import time

from locking import COMPATIBLE, raw_lock, raw_take, take, take_locks, try_lock, wait_until_queued
from lockspacefs_test import MODES, Child, errno_of, locks, make_lockspace, opened, wait_until


_libc = ctypes.CDLL(None, use_errno=True)


def raw_mkdir(path):
    """mkdir(2): the errno, 0 for success. Python would not tell of EINTR."""
    return 0 if _libc.mkdir(os.fsencode(path), 0o777) == 0 else ctypes.get_errno()


def raw_read(fd):
    """read(2): the errno, 0 for success."""
    buffer = ctypes.create_string_buffer(64)
    return 0 if _libc.read(fd, buffer, 64) >= 0 else ctypes.get_errno()


def make_all(mount, names):
    """Lockspaces. What takes longer than -o wait= goes on behind."""
    for name in names:
        try:
            make_lockspace(mount, name)
        except OSError as error:
            if error.errno != errno.EINPROGRESS:
                raise
            wait_until((mount / name).is_dir)


def interrupted(call, *arguments, every=0.1):
    """A function of the C library while signals keep coming: the errno, 0 for success. @every: so many seconds."""
    previous = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        return 0 if getattr(_libc, call)(*arguments) >= 0 else ctypes.get_errno()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def give_up_on_many(lockspace, call, *arguments):
    """Such interrupted calls on a thousand new files, or until one cannot be had: their errnos."""
    os.umask(0)
    errors = []
    while len(errors) < 1000 and errors[-1:] != [errno.ENOLCK]:
        with opened(lockspace / f"{call}-{len(errors)}", os.O_RDWR | os.O_CREAT) as fd:
            errors.append(interrupted(call, fd, *arguments, every=0.02))
    return errors


def errno_of_many(lockspace, count):
    """Of so many locks at a time."""
    with contextlib.ExitStack() as held:
        return errno_of(take_locks, lockspace, "flock", count, held)


def locks_left(lockspace):
    """The lines of `.locks` but for the values that another node keeps alive."""
    return [row for row in locks(lockspace) if (row["by"], row["mode"]) != ("other", "NL")]


def _wait(peer, way, lockspace, resource, mode):
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    peer.say(raw_take(way, lockspace, resource, mode))


def interruption(way, lockspace, resource, mode="ex"):
    """Seconds from a signal to a waiter until he says EINTR."""
    child = wait_until_queued(lockspace, Child(_wait, way, lockspace, resource, mode))
    started = time.monotonic()
    child.signal(signal.SIGUSR1)
    said = child.wait_for()
    seconds = time.monotonic() - started
    assert said == errno.EINTR, errno.errorcode.get(said, said)
    child.join()
    return seconds


def death(way, lockspace, resource, mode="ex"):
    """Seconds from SIGKILL to a waiter until he is gone."""
    child = wait_until_queued(lockspace, Child(_wait, way, lockspace, resource, mode))
    started = time.monotonic()
    child.kill()
    return time.monotonic() - started


def try_after_giving_up(way, lockspace):
    """Two open files share a lock, one is interrupted while it waits for more, and both are closed. Is it free then?"""
    files = [take(way, lockspace, "r", "pr") for _ in range(2)]
    other = os.open(lockspace / "r", os.O_RDWR)
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    assert raw_lock(way, files[0]) == errno.EINTR
    signal.setitimer(signal.ITIMER_REAL, 0)
    for fd in files:
        os.close(fd)
    is_free = try_lock(way, other)
    os.close(other)
    return is_free


def seconds_of(function):
    started = time.monotonic()
    function()
    return time.monotonic() - started


def take_all_pairs(lockspace):
    """For each pair of modes its resource "HELD-ASKED", opened in HELD: the descriptors."""
    return {(held, asked): take("open", lockspace, f"{held}-{asked}", held) for held in MODES for asked in MODES}


def try_all_pairs(lockspace):
    """Each opened in ASKED, without waiting: the pairs that were refused."""
    refused = []
    for held in MODES:
        for asked in MODES:
            try:
                os.close(take("open", lockspace, f"{held}-{asked}", asked, wait=False))
            except BlockingIOError:
                refused.append((held, asked))
    return refused


def conflicts():
    return [(held, asked) for held in MODES for asked in MODES if asked not in COMPATIBLE[held]]


def count(way, lockspace, rounds):
    """Raise the number in the value of "counter", by reading and writing under the lock."""
    for _ in range(rounds):
        fd = take(way, lockspace, "counter")
        number = int(os.pread(fd, 32, 0) or b"0")
        os.pwrite(fd, b"%d" % (number + 1), 0)
        os.close(fd)
