#!/usr/bin/python3
"""One life of a client: a process that works in a mount as people do, everything mixed by chance, until SIGTERM.

It is started by soak.py, here or on a node, and says what happened in lines of JSON on standard output:

    {"report": TIME, "ops": {KIND: N}, "errors": {"KIND ERRNO": N}}     at every interval: what came since the last
    {"wrong": KIND, "time": TIME, …}                                    what must not be, unless a fault excuses it
    {"begin": TIME}, {"end": TIME}                                      the first line and the last

Waiting is cut short by a timer signal in most cases, and every wait for what must come is bounded.
"""

import argparse
import contextlib
import ctypes
import errno
import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from locking import errno_name, raw_lock, raw_open
from lockspacefs_test import MODES, VALUE_LEN, get, locks, make_lockspace, put, status, touch, wait_for_poll
from witness import Witness, next_value

RESOURCES = ["a", "b", "c"]                     # each has a counter
FILES = [f"file{i}" for i in range(8)]          # made and unlinked by everybody
ENOUGH = 50                                     # things that are wrong: it can stop
MUST_COME = 300                                 # seconds until what has to happen counts as lost: faults may last
WAYS = ["flock", "posix", "ofd", "open"]
PATIENCE = [0.0005, 0.005, 0.05, 2]             # seconds after which a signal ends a wait
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
COMING_AND_GOING = (errno.EEXIST, errno.EBUSY, errno.EINPROGRESS, errno.EINTR, errno.ENOENT)

libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def for_at_most(seconds):
    """A signal ends a wait in this block, and again, should it come just before one."""
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.02)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fork(function):
    """A child that does this, and is gone when we are."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)           # that is for us, and goes to the whole group
            if os.getppid() == parent:
                function()
        finally:
            os._exit(1)
    return pid


def wait_in_line(path):
    """Until it has the lock, and then until it is killed. A stop and continue ends a wait, too: lockspacefs(5)."""
    while raw_open(path) == -errno.EINTR:
        pass
    signal.pause()


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Teller:
    """Counts, and says."""

    def __init__(self, interval):
        self._interval = interval
        self._next = time.time() + interval
        self.wrongs = 0
        self._clear()

    def _clear(self):
        self._ops, self._errors = Counter(), Counter()

    def done(self, kind, number=0):
        """Something was tried; 0: and it went well."""
        self._ops[kind] += 1
        if number:
            self._errors[f"{kind} {errno_name(number)}"] += 1

    def wrong(self, kind, **what):
        self.wrongs += 1
        self.say(wrong=kind, time=time.time(), **what)

    def say(self, **what):
        os.write(1, (json.dumps(what) + "\n").encode())

    def report_if_due(self):
        if time.time() >= self._next:
            self.report()

    def report(self):
        self.say(report=time.time(), ops=self._ops, errors=self._errors)
        self._clear()
        self._next = time.time() + self._interval


class Client:
    def __init__(self, options):
        self.mount = Path(options.mount)
        self.web = self.mount / "web"
        self.life = options.life
        self.slot = options.life.split("-")[0]
        self.pause = options.pause
        self.dice = random.Random(options.seed)
        self.witness = Witness(options.witness, options.life)
        self.tell = Teller(options.interval)
        self.ended = False
        self._seen = set()

    # --- what a section does, with the lock held -------------------------------

    @contextlib.contextmanager
    def inside(self, resource, mode):
        for marker in self.witness.enter(resource, mode):
            self.tell.wrong("exclusion", resource=resource, mode=mode, marker=marker)
        try:
            yield
        finally:
            self.witness.leave(resource, mode)

    def value(self, fd, kind):
        """As the witness has it, EPOCH:N@LIFE, or None: it is lost."""
        try:
            return os.pread(fd, VALUE_LEN, 0).decode() or "0:0"
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.tell.done(kind, error.errno)
            return None

    def count(self, fd, resource):
        """One more, and nobody else's number comes between. What is not as it should be begins a new epoch."""
        seen = self.value(fd, "count")
        new = seen and next_value(seen, self.life)
        if seen is None or not self.witness.step(resource, seen, new):
            self.value(fd, "count")             # is it still ours? A daemon that was killed has let others in
            found = self.witness.counter(resource)
            new = f"{self.dice.randrange(1 << 40):x}:1@{self.life}"
            self.witness.step(resource, found, new)
            self.tell.wrong("value", resource=resource, seen=seen, found=found, new=new)
        os.pwrite(fd, new.encode().ljust(VALUE_LEN, b"\0"), 0)         # whole: the one before may be longer
        self.tell.done("count")

    def check(self, fd, resource):
        """Under PR nobody writes: the value is what the witness says."""
        seen = self.value(fd, "read")
        found = self.witness.counter(resource)
        if seen != found and (resource, seen, found) not in self._seen:
            self._seen.add((resource, seen, found))
            self.tell.wrong("value", resource=resource, seen=seen, found=found)
        self.tell.done("read")

    def work(self, fd, resource, mode):
        with self.inside(resource, mode):
            if mode in ("pw", "ex"):
                self.count(fd, resource)
            elif mode == "pr":
                self.check(fd, resource)
            if self.dice.randrange(8) == 0:     # hold it for a while, or until somebody waits
                wait_for_poll(fd, select.POLLPRI, self.dice.random() * 0.01)

    # --- taking locks ----------------------------------------------------------

    def take(self, way, path, mode, wait, patience):
        """Open and lock: the descriptor, or None."""
        with for_at_most(patience):
            if way == "open":
                kind = f"open .{mode}"
                flags = os.O_RDWR if mode in ("cw", "pw", "ex") else self.dice.choice([os.O_RDONLY, os.O_RDWR])
                fd = raw_open(path.parent / f".{mode}" / path.name, flags | (0 if wait else os.O_NONBLOCK))
                self.tell.done(kind, max(0, -fd))
                return fd if fd >= 0 else None
            fd = raw_open(path, os.O_RDWR)
            if fd < 0:
                self.tell.done("open", -fd)
                return None
            number = raw_lock(way, fd, mode, wait)
        self.tell.done(f"{way} {mode}", number)
        if number:
            os.close(fd)
            return None
        return fd

    def lock_somehow(self):
        way, resource = self.dice.choice(WAYS), self.dice.choice(RESOURCES)
        mode = self.dice.choice(MODES if way == "open" else ["pr", "ex"])
        fd = self.take(way, self.web / resource, mode, self.dice.randrange(3) > 0, self.dice.choice(PATIENCE))
        if fd is not None:
            try:
                self.work(fd, resource, mode)
            finally:
                os.close(fd)

    def convert(self):
        """SH, EX and SH again on one open file. The marker is not there while the lock changes."""
        way, resource = self.dice.choice(["flock", "posix", "ofd"]), self.dice.choice(RESOURCES)
        fd = self.take(way, self.web / resource, "pr", True, self.dice.choice(PATIENCE))
        if fd is None:
            return
        try:
            self.work(fd, resource, "pr")
            with for_at_most(self.dice.choice(PATIENCE)):
                number = raw_lock(way, fd, "ex", self.dice.choice([True, False]))
            self.tell.done(f"{way} convert", number)
            if number == 0:
                self.work(fd, resource, "ex")
                self.tell.done(f"{way} downgrade", raw_lock(way, fd, "pr"))
                self.work(fd, resource, "pr")
        finally:
            os.close(fd)

    # --- processes that die, and who is told -----------------------------------

    def notice(self):
        """Who holds is told that somebody waits; the one who waits is killed."""
        path = self.web / ".ex" / f"notice-{self.slot}"
        fd = os.open(path, os.O_RDWR)
        try:
            child = fork(lambda: wait_in_line(path))
            if not wait_for_poll(fd, select.POLLPRI, MUST_COME) & select.POLLPRI:
                self.tell.wrong("notice", what="nobody was told that somebody waits")
            kill(child)
        finally:
            os.close(fd)
        self.must_be_free(path)
        self.tell.done("notice")

    def death(self):
        """A holder is killed: what it held is free."""
        name = f"death-{self.slot}"
        touch(self.web / name)
        way = self.dice.choice(WAYS)
        ours, theirs = os.pipe()

        def hold():
            self.take(way, self.web / name, "ex", True, MUST_COME)
            os.write(theirs, b"!")
            signal.pause()

        child = fork(hold)
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        kill(child)
        self.must_be_free(self.web / ".ex" / name)
        self.tell.done("death")

    def must_be_free(self, path):
        for _ in range(3):                      # a stop and continue ends a wait, too: lockspacefs(5)
            with for_at_most(MUST_COME):
                fd = raw_open(path)
            if fd != -errno.EINTR:
                break
        if fd < 0:
            self.tell.wrong("death", what=f"{path}: {os.strerror(-fd)}")
            return
        os.close(fd)

    # --- files and lockspaces that come and go ---------------------------------

    def file(self):
        path = self.web / self.dice.choice(FILES)
        kind, call = self.dice.choice([("create", lambda: touch(path)), ("unlink", lambda: os.unlink(path)),
                                       ("list", lambda: os.listdir(self.web)), ("stat", lambda: os.stat(path)),
                                       ("chmod", lambda: os.chmod(path, 0o666)),
                                       ("utime", lambda: os.utime(path)), ("lock file", lambda: self.lock_and_unlink(path))])
        self.call(kind, call)

    def lock_and_unlink(self, path):
        """The lock stays a lock when its name goes and comes again."""
        touch(path)
        fd = self.take("flock", path, "ex", False, MUST_COME)
        if fd is None:
            return
        try:
            self.call("unlink", lambda: os.unlink(path))
            touch(path)
            other = self.take("open", path, "ex", False, MUST_COME)
            if other is not None:
                self.tell.wrong("exclusion", resource=path.name, mode="ex", marker="held across an unlink")
                os.close(other)
        finally:
            os.close(fd)

    def call(self, kind, function, *more_arguments):
        try:
            function(*more_arguments)
        except OSError as error:
            self.tell.done(kind, error.errno)
            return False
        self.tell.done(kind)
        return True

    def lockspace(self):
        """One of our own: made, used and removed, by force or not."""
        own = self.mount / f"own-{self.slot}"
        if not self.call("mkdir", make_lockspace, self.mount, own.name):
            self.remove_by_force(own)           # what was left behind, or goes on behind an answer
            return
        try:
            touch(own / "x")
            fd = os.open(own / ".ex" / "x", os.O_RDWR)
        except OSError as error:
            self.tell.done("own", error.errno)
            return
        try:
            wait_for_poll(fd, select.POLLPRI, self.dice.choice([0, 0.1]))       # a visitor
            if self.dice.choice([True, False]) and self.remove_by_force(own):
                self.must_be_told(fd)
        finally:
            os.close(fd)
        self.call("rmdir", os.rmdir, own)

    def remove_by_force(self, own):
        return self.call("force", put, own / ".force", b"1") and self.call("rmdir by force", os.rmdir, own)

    def must_be_told(self, fd):
        gone = select.POLLERR | select.POLLHUP
        if wait_for_poll(fd, select.POLLPRI, MUST_COME) & gone != gone:
            self.tell.wrong("forced", what="the holder was not told")
        try:
            os.pread(fd, 32, 0)
            self.tell.wrong("forced", what="the holder can go on")
        except OSError as error:
            self.tell.done("gone", error.errno)

    def visit(self):
        """In somebody's own lockspace, which may go at any moment."""
        names = [name for name in os.listdir(self.mount) if name.startswith("own-")]
        if not names:
            return
        own = self.mount / self.dice.choice(names)
        kind, way = "visit", self.dice.choice(WAYS)
        with for_at_most(0.05):
            fd = raw_open(own / ".ex" / "x") if way == "open" else raw_open(own / "x")
            self.tell.done(kind, max(0, -fd))
            if fd >= 0 and way != "open":
                self.tell.done(kind, raw_lock(way, fd, "ex"))
        if fd >= 0:
            self.call("visit close", os.close, fd)

    def tables(self):
        """As a monitor would."""
        kind, call = self.dice.choice([(".locks", lambda: locks(self.web)), (".status", lambda: status(self.mount)),
                                       (".metrics", lambda: get(self.mount / ".metrics"))])
        self.call(kind, call)

    # --- a life ----------------------------------------------------------------

    def run(self, rare):
        """@rare: how seldom lockspaces come and go, which on dlm takes all nodes a while."""
        mix = [(self.lock_somehow, 100), (self.convert, 30), (self.file, 20), (self.visit, 10), (self.tables, 3),
               (self.notice, 2), (self.death, 2), (self.lockspace, 2 / rare)]
        works, weights = zip(*mix)
        self.tell.say(begin=time.time())
        while not self.ended:
            work = self.dice.choices(works, weights)[0]
            libc.prctl(PR_SET_NAME, work.__name__.encode(), 0, 0, 0)        # for look.py
            try:
                work()
            except OSError as error:
                self.tell.wrong("errno", what=f"{work.__name__}: {error}", errno=errno_name(error.errno))
                if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) or self.tell.wrongs > ENOUGH:    # the mount is gone
                    break
            self.tell.report_if_due()
            time.sleep(self.dice.random() * 2 * self.pause)
        self.remove_by_force(self.mount / f"own-{self.slot}")
        self.tell.report()
        self.tell.say(end=time.time())


def prepare(mount):
    """The lockspace that all share, and its files, whoever comes first."""
    deadline = time.monotonic() + MUST_COME
    while True:
        try:
            make_lockspace(mount, "web")
        except OSError as error:
            if error.errno not in COMING_AND_GOING or time.monotonic() > deadline:
                raise
        if (mount / "web").is_dir():
            break
        time.sleep(0.05)
    for name in RESOURCES:
        touch(mount / "web" / name)


def arguments(parser):
    """Those of a client and of an observer."""
    parser.add_argument("--mount", required=True)
    parser.add_argument("--life", required=True, help="SLOT-N: the Nth life of a client")
    parser.add_argument("--interval", type=float, required=True)
    parser.add_argument("--pause", type=float, required=True, help="between two works, in seconds, on average")


def main():
    parser = argparse.ArgumentParser()
    arguments(parser)
    parser.add_argument("--witness", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--rare", type=float, required=True)
    options = parser.parse_args()
    client = Client(options)
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.signal(signal.SIGTERM, lambda number, frame: setattr(client, "ended", True))
    prepare(client.mount)
    client.run(options.rare)


if __name__ == "__main__":
    main()
