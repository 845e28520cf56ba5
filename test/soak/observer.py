#!/usr/bin/python3
"""Beside the clients of a mount: does the same work again and again, and says how long it takes and what the daemon uses.

    {"sample": TIME, "since": TIME, "rss": KB, "threads": N, "fds": N, "latency": {KIND: [N, MEDIAN, P99]}}

at every interval, or later where the machine is busy. Latencies are in seconds.
The probe `baseline` goes to another process and back without lockspacefs: how busy the machine is. `hand-over` is from
one who closes to one who is known to wait.
"""

import argparse
import fcntl
import os
import select
import signal
import socket
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from client import MUST_COME, Teller, arguments, fork, prepare
from locking import errno_name, lock
from lockspacefs_test import get, locks, status, touch, wait_for_poll

LEAST = 3                                       # of each probe in a sample


class Probes:
    def __init__(self, mount, life):
        self.mount = mount
        self.web = mount / "web"
        self.name = f"probe-{life}"
        touch(self.web / self.name)
        self.fd = os.open(self.web / self.name, os.O_RDWR)
        self.peer, theirs = socket.socketpair()
        self._child = fork(lambda: self._echo(theirs))
        theirs.close()
        self.kinds = {"baseline": self.baseline, "flock": self.flock, "posix": self.posix, "open": self.open,
                      "value": self.value, "create": self.create, "tables": self.tables, "hand-over": self.hand_over}

    def _echo(self, channel):
        """The other process: "b" comes back, "h" waits for the lock first."""
        self.peer.close()
        os.close(self.fd)
        while order := channel.recv(1):
            if order == b"h":
                os.close(os.open(self.web / ".ex" / f"{self.name}-h", os.O_RDWR))
            channel.send(b"!")

    def baseline(self):
        started = time.perf_counter()
        self.peer.send(b"b")
        self.peer.recv(1)
        return time.perf_counter() - started

    def hand_over(self):
        fd = os.open(self.web / ".ex" / f"{self.name}-h", os.O_RDWR)
        self.peer.send(b"h")
        told = wait_for_poll(fd, select.POLLPRI, MUST_COME)
        started = time.perf_counter()
        os.close(fd)
        self.peer.recv(1)
        if not told:
            raise OSError("the holder was not told that somebody waits")
        return time.perf_counter() - started

    @staticmethod
    def timed(function):
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    def flock(self):
        return self.timed(lambda: (fcntl.flock(self.fd, fcntl.LOCK_EX), fcntl.flock(self.fd, fcntl.LOCK_UN)))

    def posix(self):
        return self.timed(lambda: (lock("posix", self.fd, "ex"), lock("posix", self.fd, "un")))

    def open(self):
        return self.timed(lambda: os.close(os.open(self.web / ".ex" / self.name, os.O_RDWR)))

    def value(self):
        def write_and_read():
            fd = os.open(self.web / ".pw" / f"{self.name}-v", os.O_RDWR)
            os.pwrite(fd, b"probe", 0)
            os.close(fd)
            fd = os.open(self.web / ".pr" / f"{self.name}-v", os.O_RDONLY)
            os.pread(fd, 32, 0)
            os.close(fd)
        return self.timed(write_and_read)

    def create(self):
        return self.timed(lambda: (touch(self.web / f"{self.name}-c"), os.unlink(self.web / f"{self.name}-c")))

    def tables(self):
        return self.timed(lambda: (locks(self.web), status(self.mount), get(self.mount / ".metrics")))


def daemon_figures(pid):
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {"rss": int(fields["VmRSS"].split()[0]), "threads": int(fields["Threads"]),
            "fds": len(os.listdir(f"/proc/{pid}/fd"))}


def figures(times):
    ordered = sorted(times)
    return [len(ordered), statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]]


def main():
    parser = argparse.ArgumentParser()
    arguments(parser)
    parser.add_argument("--daemon", type=int, required=True, help="its process id")
    options = parser.parse_args()
    ended = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    mount = Path(options.mount)
    prepare(mount)
    probes = Probes(mount, options.life)
    tell = Teller(options.interval)
    tell.say(begin=time.time())
    while not ended:
        times = {kind: [] for kind in probes.kinds}
        since = time.time()
        due = since + options.interval
        try:
            while not ended and (time.time() < due or len(times["flock"]) < LEAST):
                for kind, probe in probes.kinds.items():
                    times[kind].append(probe())
                time.sleep(options.pause)
            if not ended:
                tell.say(sample=time.time(), since=since, latency={kind: figures(taken) for kind, taken in times.items()},
                         **daemon_figures(options.daemon))
        except OSError as error:
            tell.wrong("probe", what=str(error), errno=errno_name(error.errno))
            break
    tell.say(end=time.time())


if __name__ == "__main__":
    main()
