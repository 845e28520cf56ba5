"""The ways to take a lock, alike: what the tests of locking share.

A way is "flock", "posix", "ofd" (fcntl) or "open" (a mode directory), a mode
is one of the six. Calls named raw_ go to the C library, which says EINTR where
Python would quietly try again.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import struct
import subprocess

from lockspacefs_test import TIMEOUT, Child, locks, opened, wait_until

WAYS = ["flock", "posix", "ofd", "open"]
FCNTL_WAYS = ["posix", "ofd"]
PROMPT = TIMEOUT / 10                           # seconds in which "at once" has to happen on a busy machine

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
OFFSET_MAX = (1 << 63) - 1

COMPATIBLE = {                                  # the DLM's table: with whom each mode shares a resource
    "nl": {"nl", "cr", "cw", "pr", "pw", "ex"},
    "cr": {"nl", "cr", "cw", "pr", "pw"},
    "cw": {"nl", "cr", "cw"},
    "pr": {"nl", "cr", "pr"},
    "pw": {"nl", "cr"},
    "ex": {"nl"},
}

_libc = ctypes.CDLL(None, use_errno=True)
_FLOCK = {"pr": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}
_FCNTL = {"pr": fcntl.F_RDLCK, "ex": fcntl.F_WRLCK, "un": fcntl.F_UNLCK}
_STRUCT_FLOCK = "hhqqi4x"                       # l_type l_whence l_start l_len l_pid


# --- calls on an open file -------------------------------------------------

def _fcntl_command(way, wait):
    if way == "ofd":
        return F_OFD_SETLKW if wait else F_OFD_SETLK
    return fcntl.F_SETLKW if wait else fcntl.F_SETLK


def _flock_struct(mode, start=0, length=0, whence=os.SEEK_SET):
    return struct.pack(_STRUCT_FLOCK, _FCNTL[mode], whence, start, length, 0)


def lock(way, fd, mode="ex", wait=True, **part):
    """Lock an open file, by flock or fcntl; "un" unlocks. @part: start, length, whence."""
    if way == "flock":
        fcntl.flock(fd, _FLOCK[mode] | (0 if wait else fcntl.LOCK_NB))
    else:
        fcntl.fcntl(fd, _fcntl_command(way, wait), _flock_struct(mode, **part))


def unlock(way, fd, **part):
    lock(way, fd, "un", **part)


def try_lock(way, fd, mode="ex"):
    """True: locked; False: somebody else has it (EWOULDBLOCK, EAGAIN)."""
    try:
        lock(way, fd, mode, wait=False)
    except BlockingIOError:
        return False
    return True


def getlk(way, fd, mode="ex", **part):
    """F_GETLK or F_OFD_GETLK: who is in the way, as (mode or "un", whence, start, length, pid)."""
    command = F_OFD_GETLK if way == "ofd" else fcntl.F_GETLK
    answer = fcntl.fcntl(fd, command, _flock_struct(mode, **part))
    kind, whence, start, length, pid = struct.unpack(_STRUCT_FLOCK, answer)
    return {number: name for name, number in _FCNTL.items()}[kind], whence, start, length, pid


def raw_lock(way, fd, mode="ex", wait=True):
    """As lock(), but: the errno, 0 for success. A signal is not hidden."""
    if way == "flock":
        result = _libc.flock(fd, _FLOCK[mode] | (0 if wait else fcntl.LOCK_NB))
    else:
        result = _libc.fcntl(fd, _fcntl_command(way, wait), _flock_struct(mode))
    return 0 if result == 0 else ctypes.get_errno()


def raw_open(path, flags=os.O_RDWR):
    """open(2): the descriptor, or a negative errno."""
    fd = _libc.open(os.fsencode(path), flags | os.O_CLOEXEC)
    return fd if fd >= 0 else -ctypes.get_errno()


def raw_take(way, lockspace, resource, mode="ex"):
    """As take(), but: the errno, 0 for success. The descriptor stays open then."""
    if way == "open":
        return min(0, raw_open(lockspace / f".{mode}" / resource)) * -1
    fd = os.open(lockspace / resource, os.O_RDWR | os.O_CREAT)
    return raw_lock(way, fd, mode)


# --- a lock and its descriptor ---------------------------------------------

def take(way, lockspace, resource, mode="ex", wait=True):
    """Open the file and lock it: the descriptor, whose close drops it."""
    if way == "open":
        return os.open(lockspace / f".{mode}" / resource, os.O_RDWR | os.O_CLOEXEC | (0 if wait else os.O_NONBLOCK))
    fd = os.open(lockspace / resource, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        lock(way, fd, mode, wait)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def taken(way, lockspace, resource, mode="ex", wait=False):
    """The block runs under the lock; it must be free unless @wait."""
    fd = take(way, lockspace, resource, mode, wait)
    try:
        yield fd
    finally:
        os.close(fd)


def is_free(lockspace, resource, mode="ex", way="open"):
    """Would somebody new get it in this mode at this moment?"""
    try:
        os.close(take(way, lockspace, resource, mode, wait=False))
    except BlockingIOError:
        return False
    return True


_SHARED = {
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "posix": lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "ofd": lambda fd: fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)),
}


def take_locks(lockspace, kind, count, stack, prefix=""):
    """That many locks of this process, shared and at once, on one file each."""
    for i in range(count):
        path = lockspace / f"{prefix or os.geteuid()}-{i}"
        if kind == "open":
            fd = os.open(lockspace / ".pr" / path.name, os.O_RDONLY)
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, fd)
        if kind != "open":
            _SHARED[kind](fd)


def by(way):
    """What `.locks` calls it. Without /proc/PID/syscall, which guests lack, nothing tells OFD from POSIX locks."""
    return "posix" if way == "ofd" and not os.path.exists("/proc/self/syscall") else way


def held(lockspace, resource):
    """What `.locks` says is held on a resource: a sorted list of (mode, by)."""
    return sorted((row["mode"].lower(), row["by"]) for row in locks(lockspace)
                  if row["state"] == "held" and row["resource"] == resource)


# --- other processes with locks --------------------------------------------

def _hold(peer, way, lockspace, resource, mode):
    fd = take(way, lockspace, resource, mode)
    peer.say("locked")
    peer.wait_for("release")
    os.close(fd)


def start_holder(way, lockspace, resource, mode="ex"):
    """A process that has the lock; it ends when told to "release"."""
    child = Child(_hold, way, lockspace, resource, mode)
    child.wait_for("locked")
    return child


def is_queued(lockspace, pid):
    """Does that process wait for a lock here, by `.locks`?"""
    return any(row["pid"] == pid and row["state"] != "held" for row in locks(lockspace))


def wait_until_queued(lockspace, child):
    wait_until(lambda: is_queued(lockspace, child.pid), what=f"process {child.pid} in the queue")
    return child


def start_waiter(way, lockspace, resource, mode="ex"):
    """A process that waits for the lock, and is queued already; says
    "locked" when it has it, and ends when told to "release"."""
    return wait_until_queued(lockspace, Child(_hold, way, lockspace, resource, mode))


def flock_waiter(peer, path):
    """A child, as the next two: asks for EX, and ends when it has it."""
    with opened(path) as fd:
        peer.say("asks")
        fcntl.flock(fd, fcntl.LOCK_EX)


def fcntl_waiter(peer, path):
    with opened(path) as fd:
        peer.say("asks")
        fcntl.lockf(fd, fcntl.LOCK_EX)


def open_waiter(peer, path):
    peer.say("asks")
    os.close(os.open(path.parent / ".ex" / path.name, os.O_RDWR))


def wait_for_a_signal(peer, path):
    """A child: waits for EX until SIGUSR1 comes; errno."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    with opened(path) as fd:
        return raw_lock("flock", fd)


def let_go(child):
    """Tell a holder to release; it has when this returns."""
    child.say("release")
    child.join()


def errno_name(number):
    """0, or the name as the man pages have it."""
    return "EDEADLK" if number == errno.EDEADLK else errno.errorcode.get(number, number)


# --- the DLM ---------------------------------------------------------------

def dlm_tool(*arguments):
    subprocess.run(["dlm_tool", *arguments], stdout=subprocess.DEVNULL, timeout=TIMEOUT, check=True)


@contextlib.contextmanager
def stopped(name):
    """What dlm_controld does when a node fails: no lock is granted in that lockspace until it is done with that."""
    control = f"/sys/kernel/dlm/{name}/control"
    with open(control, "w", encoding="ascii") as file:
        file.write("0")
    try:
        yield
    finally:
        with open(control, "w", encoding="ascii") as file:
            file.write("1")
