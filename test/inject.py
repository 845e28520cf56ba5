"""Faults for a daemon that runs: inject.c preloaded into it, told through a file what is to fail.

And what is done to see what comes of that: a life of locks, in which all is
done that a user can do, is lived again and again. Each time another call of
the daemon fails, the first, the second …, until it is through without one.
What fails may fail whoever asked for it; but whatever does, afterwards nobody
is kept out, nothing is left behind and what was written is there.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import signal
import struct
from pathlib import Path

from locking import getlk, is_free, locks, raw_lock
from lockspacefs_test import errno_of, get, make_lockspace, opened, status, wait_until

DLM_DEBUG = Path("/sys/kernel/debug/dlm")

_PLAN = struct.Struct("=Ii6I256s")               # struct Plan of inject.c
_KINDS = ["none", "read", "write", "open", "eventfd", "epoll_create", "epoll_ctl", "pthread_create", "malloc", "close_range"]


class Injector:
    """One daemon's faults. Start it with `environment=injector.environment`."""

    def __init__(self, directory, library):
        path = directory / "inject"
        path.write_bytes(bytes(mmap.PAGESIZE))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        assert library.exists(), f"no {library}: build it"
        sanitizers = os.environ.get("ASAN_OPTIONS", "")         # whose library comes after this one
        self.environment = {"LD_PRELOAD": str(library), "LOCKSPACEFS_INJECT": str(path),
                            "ASAN_OPTIONS": f"{sanitizers}:verify_asan_link_order=0"}

    def _set(self, kind, *, error=0, length=0, skip=0, count=1, every=1, path=""):
        self._map[:4] = bytes(4)
        self._map[4:_PLAN.size] = _PLAN.pack(0, error, length, skip, count, every, 0, 0, os.fsencode(path))[4:]
        self._map[:4] = struct.pack("=I", _KINDS.index(kind))

    def fail(self, kind, error, **which):
        """From now on: after @skip such calls of the next @count each @every'th fails with this
        errno. @path: only those on files whose path begins so; of malloc, calls by that program or library."""
        self._set(kind, error=error, **which)

    def cut(self, length, **which):
        """The same for reads: they bring @length bytes at most, and the rest is lost."""
        self._set("read", length=length, **which)

    @property
    def seen(self):
        """How many calls came by."""
        return _PLAN.unpack_from(self._map)[6]

    @property
    def injected(self):
        """How many of these have failed."""
        return _PLAN.unpack_from(self._map)[7]

    def stop(self):
        """Nothing fails any more. How many have."""
        self._map[:4] = bytes(4)
        return self.injected


# --- a life ----------------------------------------------------------------

class Life:
    """What was asked for, and how it went: errnos by step."""

    def __init__(self, mount):
        self.lockspace = mount / "web"
        self.errors = {}
        self.value = None

    def step(self, name, function, *args):
        def run():
            self.result = function(*args)
        self.errors[name] = errno_of(run)
        return self.errors[name] == 0

    def step_raw(self, name, number):
        self.errors[name] = number
        return number == 0

    def _be_interrupted(self, fd):
        """Wait for a lock until a signal comes; one after the other, in case the first comes too early."""
        old = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        number = raw_lock("flock", fd, "ex")
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        return number

    def lock(self):
        """One file, through everything that flock can be."""
        with contextlib.ExitStack() as files:
            def make():
                return (files.enter_context(opened(self.lockspace / "job", os.O_RDWR | os.O_CREAT)),
                        files.enter_context(opened(self.lockspace / "job")))
            if not self.step("make", make):
                return
            fd, other = self.result
            if self.step("lock", fcntl.flock, fd, fcntl.LOCK_EX):
                if self.step("write", os.write, fd, b"one"):
                    self.value = b"one"
                self.step("fsync", os.fsync, fd)
                self.step_raw("wait", self._be_interrupted(other))
                self.step("demote", fcntl.flock, fd, fcntl.LOCK_SH)
                self.step("promote", fcntl.flock, fd, fcntl.LOCK_EX)
                self.step("unlock", fcntl.flock, fd, fcntl.LOCK_UN)
            self.step("getlk", getlk, "posix", fd)
            self.step("setlk", fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def open(self):
        """A mode directory."""
        def write():
            with opened(self.lockspace / ".ex/rev") as fd:
                os.write(fd, b"42")
        self.step("open", write)

    def look(self):
        """Without a lock of one's own."""
        if (self.lockspace / "job").exists():
            self.step("read", get, self.lockspace / "job")
            self.step("getxattr", os.getxattr, self.lockspace / "job", "user.value")
        self.step("locks", get, self.lockspace / ".locks")
        self.step("list", os.listdir, self.lockspace)
        self.step("force", get, self.lockspace / ".force")

    def live(self):
        """In a lockspace that is there."""
        self.lock()
        self.open()
        self.look()
        return self

    def come_and_go(self, live):
        """In one that is not."""
        if self.step("mkdir", make_lockspace, self.lockspace.parent, self.lockspace.name):
            self.step("chmod", self.lockspace.chmod, 0o700)
            live(self)
            self.step("rmdir", self.lockspace.rmdir)
        return self


FITTING = {                                     # which errors a user can make something of, when memory is short
    "mkdir": {errno.ENOMEM}, "chmod": {errno.ENOMEM}, "make": {errno.ENOMEM},
    "lock": {errno.ENOLCK}, "demote": {errno.ENOLCK}, "promote": {errno.ENOLCK}, "setlk": {errno.ENOLCK}, "getlk": {errno.ENOLCK},
    "wait": {errno.ENOLCK, errno.EINTR},
    "unlock": set(),                            # who gives back is never refused
    "write": set(), "fsync": {errno.ENOMEM},
    "open": {errno.ENOMEM}, "read": {errno.ENOMEM}, "getxattr": {errno.ENOMEM}, "locks": {errno.ENOMEM},
    "list": {errno.ENOMEM}, "force": {errno.ENOMEM},
    "rmdir": {errno.ENOMEM},
}
FITTING_OWN = {**FITTING, "write": {errno.ENOMEM}}      # when it is the daemon's: who writes a value needs some


def locks_of_the_kernel(lockspace):
    """What the DLM has on this node: (resource, (granted mode, wanted mode))."""
    text = (DLM_DEBUG / f"{lockspace.name}_locks").read_text()
    fields = [line.split() for line in text.splitlines()[1:]]
    return [(line[-1], (int(line[8]), int(line[9]))) for line in fields]


def check_nothing_is_lost(life, engine):
    """Nobody is kept out, nothing is counted, the value is there."""
    lockspace = life.lockspace
    for resource in ["job", "rev"]:
        assert is_free(lockspace, resource), f"{resource} is not free"
    if life.value:
        assert get(lockspace / ".pr/job") == life.value
    assert locks(lockspace) == []
    if engine == "dlm":                         # NL keeps values
        wait_until(lambda: all(modes == (0, -1) for _, modes in locks_of_the_kernel(lockspace)), what="the end of all locks in the kernel")
    counts = status(lockspace.parent)
    assert (counts["held"], counts["waiting"]) == (0, 0)


def check_nothing_is_left(lockspace, engine):
    if lockspace.exists():
        assert is_free(lockspace, "rev")
        lockspace.rmdir()
    assert status(lockspace.parent)["lockspaces"] == 0
    assert engine != "dlm" or not os.path.exists(f"/dev/dlm_{lockspace.name}")


def sweep(live, check, arm, injector, fitting=FITTING, most=1):
    """Live, with the first, second, … call failing, until none has. @live: does it, and its Life comes
    back. How many have failed."""
    for skip in range(1000):
        arm(skip)
        life = live()
        injected = injector.stop()
        failed = {name: number for name, number in life.errors.items()
                  if number != 0 and not (name == "wait" and number == errno.EINTR)}
        for name, number in failed.items():
            assert number in fitting[name], f"call {skip}: {name}: {errno.errorcode.get(number, number)}"
        assert len(failed) <= most, f"call {skip}: one fault, {failed}"
        check(life)
        if not injected:
            return skip
    raise AssertionError("no end")


def sweep_locks(mount, engine, *args, has_value=True, **kwargs):
    """Over the life of locks in one lockspace."""
    lockspace = make_lockspace(mount)

    def check(life):
        if not has_value:
            life.value = None
        check_nothing_is_lost(life, engine)
        for name in os.listdir(lockspace):
            (lockspace / name).unlink()

    calls = sweep(lambda: Life(mount).live(), check, *args, **kwargs)
    check_nothing_is_left(lockspace, engine)
    return calls


def sweep_lockspaces(mount, engine, *args, live=Life.open, **kwargs):
    return sweep(lambda: Life(mount).come_and_go(live), lambda life: check_nothing_is_left(life.lockspace, engine), *args, **kwargs)
