"""Processes on a node that do to a mounted tree what a test tells them, and the mounts they work in.

    with mounted(cluster.nodes) as (one, two):
        make([one, two], "web")
        holder = one.actor("fd = take('flock', web, 'deploy')")
        waiting = two.start("fd = take('flock', web, 'deploy')")
        holder.kill()
        waiting.result()

An actor is a process of its own. It runs Python with test/locking.py and test/lockspacefs_test.py at hand, keeps its
variables, and answers with a value or the error; each call also says how long it took there. This file is
both sides: as a program it runs on the node, and forks one actor after the other.
"""

import ast
import contextlib
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Optional, Sequence

if TYPE_CHECKING:
    from cluster import Job

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))            # on a node it is a program

from lockspacefs_test import trouble_in         # noqa: E402

PYTHON = "/usr/bin/python3"
TIMEOUT = 60                                    # seconds until an answer counts as lost
LOG_SHOWN = 30000                               # characters of a daemon's log that a failing test shows


# --- on the node -----------------------------------------------------------

def is_literal(value) -> bool:
    """Can the other side read what repr() makes of it?"""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        return False
    return True


def play(orders: int, names: dict) -> None:
    """The life of an actor. Orders come as lines, "ID SOURCE" with SOURCE as repr() writes it."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    with os.fdopen(orders) as lines:
        for line in lines:
            number, source = line.split(" ", 1)
            source = ast.literal_eval(source)
            started = time.monotonic()
            try:
                try:
                    code = compile(source, "order", "eval")
                except SyntaxError:
                    code = compile(source, "order", "exec")
                value = eval(code, names)
                answer = ("value", value if is_literal(value) else None)
            except OSError as error:
                answer = ("errno", error.errno, str(error))
            except BaseException:
                answer = ("failed", traceback.format_exc())
            answer_line = f"{number} {time.monotonic() - started:.6f} {answer!r}\n"
            os.write(1, answer_line.encode("ascii", "backslashreplace"))


def dismiss(pids: list[int]) -> None:
    """Kill these children, and what they have started. One that hangs in the kernel ends later."""
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 1
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.002)


def serve() -> None:
    """Orders on standard input: "new TAG", "dismiss TAG", "TAG ID SOURCE"."""
    names = {"__name__": "actor"}
    exec("import errno, fcntl, os, re, select, signal, struct, subprocess, sys, threading, time\n"
         "from pathlib import Path\n"
         "from lockspacefs_test import *\n"
         "from locking import *\n"
         f"sys.path.insert(0, {str(HERE)!r})\n"
         "from tricks import *\n"
         "dlm = Path('/dlm')\n"
         "web = dlm / 'web'\n", names)
    pipes = {}
    pids = []
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        first, rest = line.rstrip("\n").split(" ", 1)
        if first == "new":
            orders, pipes[rest] = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in [*pipes.values(), 0]:
                    os.close(fd)
                os.open("/dev/null", os.O_RDONLY)
                play(orders, names)
                os._exit(0)
            os.setpgid(pid, pid)
            os.close(orders)
            pids.append(pid)
            os.write(1, f"{rest} 0 ('value', {pid})\n".encode())
        elif first == "dismiss":
            dismiss(pids)
            for fd in pipes.values():
                os.close(fd)
            pipes, pids = {}, []
            os.write(1, f"{rest} 0 ('value', None)\n".encode())
        else:
            try:
                os.write(pipes[first], (rest + "\n").encode())
            except BrokenPipeError:             # it was killed: nobody will answer
                pass


# --- on the host -----------------------------------------------------------

class Answer:
    """What an actor will say."""

    def __init__(self, troupe: "Troupe", number: str, source: str):
        self._troupe = troupe
        self._number = number
        self._source = source
        self.actor: Optional["Actor"] = None

    def is_there(self) -> bool:
        return self._number in self._troupe.answers()

    def result(self, timeout: float = TIMEOUT):
        """Its value; an OSError as it was raised there."""
        self._troupe.wait_for(self._number, timeout, self._source)
        kind, *what = self._troupe.answers()[self._number][1]
        if kind == "errno":
            raise OSError(*what)
        assert kind == "value", f"{self._source!r} on node {self._troupe.node.number}:\n{what[0]}"
        return what[0]

    def errno(self, timeout: float = TIMEOUT) -> int:
        """That of its OSError; 0: it went well."""
        try:
            self.result(timeout)
        except OSError as error:
            return error.errno
        return 0

    @property
    def seconds(self) -> float:
        """How long it took, by the node's clock."""
        return self._troupe.answers()[self._number][0]


class Actor:
    def __init__(self, troupe: "Troupe", tag: str, pid: int):
        self._troupe = troupe
        self._tag = tag
        self.pid = pid

    def start(self, source: str) -> Answer:
        return self._troupe.order(self._tag, source)

    def do(self, source: str, timeout: float = TIMEOUT):
        return self.start(source).result(timeout)

    def errno(self, source: str, timeout: float = TIMEOUT) -> int:
        return self.start(source).errno(timeout)

    def signal(self, number: int) -> None:
        self._troupe.send_signal(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


class Troupe:
    """The actors of a node: one job that forks them, and stays for the next test, as a start takes it a second."""

    _troupes: dict = {}                         # by node

    @classmethod
    def on(cls, node) -> "Troupe":
        """The one that is there, unless the node was started again."""
        troupe = cls._troupes.get(node)
        if not troupe or not troupe.is_there():
            troupe = cls._troupes[node] = cls(node)
        return troupe

    def __init__(self, node):
        self.node = node
        self._job = node.popen(f"exec {PYTHON} -u {HERE / 'actors.py'}", stdin=True)
        self._last = 0
        self._answers = {}
        self._unread = ""
        self._director: Optional[Actor] = None

    def actor(self) -> Actor:
        tag = f"a{self._next()}"
        self._job.send(f"new {tag}\n")
        self.wait_for(tag, TIMEOUT, "a new actor")
        return Actor(self, tag, self._answers[tag][1][1])

    def order(self, tag: str, source: str) -> Answer:
        number = str(self._next())
        self._job.send(f"{tag} {number} {source!r}\n")
        return Answer(self, number, source)

    def send_signal(self, pid: int, number: int) -> None:
        """By an actor that does nothing else, so that it is quick."""
        if not self._director:
            self._director = self.actor()
        self._director.do(f"os.kill({pid}, {int(number)})")

    def answers(self) -> dict:
        *lines, self._unread = (self._unread + self._job.stdout.more()).split("\n")
        for line in lines:
            number, seconds, answer = line.split(" ", 2)
            self._answers[number] = (float(seconds), ast.literal_eval(answer))
        return self._answers

    def wait_for(self, number: str, timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while number not in self.answers():
            status = self._job.poll()
            assert status is None or number in self.answers(), f"the actors ended with {status}: {self._job.err()}"
            assert self.node.runs(), f"node {self.node.number} is gone: {what}"
            assert time.monotonic() < deadline, f"no answer from node {self.node.number} within {timeout} s to {what!r}\n" \
                f"{self._job.err()}"
            time.sleep(0.002)

    def _next(self) -> int:
        self._last += 1
        return self._last

    def is_there(self) -> bool:
        return is_there(self._job) and self._job.poll() is None

    def dismiss(self) -> None:
        """All of them, with what they have open."""
        tag = f"a{self._next()}"
        self._job.send(f"dismiss {tag}\n")
        self.wait_for(tag, TIMEOUT, "the end of the actors")
        self._director = None


def is_there(job) -> bool:
    """Its node has not crashed, nor been started again since."""
    return job.node.runs() and (job.node.share / "jobs" / f"{job.id}.pid").exists()


class Site:
    """A node with lockspacefs on /dlm."""

    def __init__(self, node, options: str = "", strict: bool = True):
        self.node = node
        self.daemon = node.mount_lockspacefs(options, strict=strict)
        self._troupe: Optional[Troupe] = None
        self._first: Optional[Actor] = None
        self._pids: list[int] = []
        self._main()                            # it takes a moment: here while others do the same
        self._programs: list['Job'] = []

    @property
    def number(self) -> int:
        return self.node.number

    def actor(self, *sources: str) -> Actor:
        """A new process, which has done this already."""
        if not self._troupe:
            self._troupe = Troupe.on(self.node)
        actor = self._troupe.actor()
        self._pids.append(actor.pid)
        for source in sources:
            actor.do(source)
        return actor

    def _main(self) -> Actor:
        if not self._first:
            self._first = self.actor()
            self._pids.remove(self._first.pid)
        return self._first

    def start(self, source: str) -> Answer:
        """In a process of its own, the .actor of the answer."""
        actor = self.actor()
        answer = actor.start(source)
        answer.actor = actor
        return answer

    def do(self, source: str, timeout: float = TIMEOUT):
        """In a process that is kept for this."""
        return self._main().do(source, timeout)

    def errno(self, source: str, timeout: float = TIMEOUT) -> int:
        try:
            self.do(source, timeout)
        except OSError as error:
            return error.errno
        return 0

    def timed(self, source: str) -> float:
        """How long it took, by the node's clock."""
        answer = self._main().start(source)
        answer.result()
        return answer.seconds

    def start_making(self, *names: str) -> Answer:
        return self._main().start(f"make_all(dlm, {names})")

    def make(self, *names: str) -> None:
        """Lockspaces that everybody may use."""
        self.start_making(*names).result()

    def wait_for(self, source: str, timeout: float = TIMEOUT):
        """Until that is true there; what it said."""
        return self.do(f"wait_until(lambda: {source}, {timeout}, {source!r})", timeout + 10)

    def is_free(self, resource: str = "r", mode: str = "ex", lockspace: str = "web", way: str = "open") -> bool:
        return self.do(f"is_free(dlm / {lockspace!r}, {resource!r}, {mode!r}, {way!r})")

    def wait_free(self, resource: str = "r", mode: str = "ex", lockspace: str = "web", way: str = "open") -> None:
        """What another node has let go is free here when its word has come across."""
        self.wait_for(f"is_free(dlm / {lockspace!r}, {resource!r}, {mode!r}, {way!r})")

    def waiter(self, way: str = "flock", resource: str = "r", mode: str = "ex", lockspace: str = "web") -> Answer:
        """A process that waits for the lock, and is queued already; it keeps it once it has it. Whoever has the lock
        has it alone: that this one is queued is then seen by `.locks`."""
        actor = self.actor()
        answer = actor.start(f"fd = take({way!r}, dlm / {lockspace!r}, {resource!r}, {mode!r})")
        answer.actor = actor
        self.wait_for(f"is_queued(dlm / {lockspace!r}, {actor.pid})")
        assert not answer.is_there()
        return answer

    def holder(self, way: str = "flock", resource: str = "r", mode: str = "ex", lockspace: str = "web") -> Actor:
        return self.actor(f"fd = take({way!r}, dlm / {lockspace!r}, {resource!r}, {mode!r})")

    def program(self, lockspace: str, *commands: str) -> 'Job':
        """Another program with locks: see dlmlock.c."""
        job = self.node.dlmlock(lockspace, *commands)
        self._programs.append(job)
        return job

    def lockspaces(self) -> set[str]:
        """What the cluster's own tool says is there."""
        lines = self.node.run("dlm_tool ls", check=True).stdout.splitlines()
        return {line.split()[1] for line in lines if line.startswith("name")}

    def clear(self) -> None:
        """Kill the actors so far, but for the one that do() uses, and the other programs."""
        for job in self._programs:
            if job.poll() is None:
                job.kill()
                job.wait(30)
        self._programs = []
        if self._pids:
            self.do(f"[os.kill(pid, 9) for pid in {self._pids} if os.path.exists(f'/proc/{{pid}}')] and None")
        self._pids = []

    def is_there(self) -> bool:
        """Not crashed, nor started again since."""
        return is_there(self.daemon.job)

    def dismiss(self) -> None:
        """The actors go, with all that they have open."""
        if self._troupe and self.is_there():
            self._troupe.dismiss()
        self._troupe = self._first = None
        self._pids = []

    def end(self) -> None:
        """The actors go, the mount goes, and the daemon ends well."""
        if not self.is_there():
            return
        self.dismiss()
        if self.daemon.job.poll() is None:
            status = self.daemon.unmount(TIMEOUT)
            assert status == 0, f"lockspacefs on node {self.number} ended with {status}"
        trouble = trouble_in(self.daemon.log())
        assert not trouble, f"lockspacefs on node {self.number} complained:\n" + "\n".join(trouble)

    def give_up(self) -> None:
        """After a failure: who knows in what state it is."""
        print(f"--- lockspacefs on node {self.number}:\n{self.daemon.log()[-LOG_SHOWN:]}")
        self.node.crash()


@contextlib.contextmanager
def mounted(nodes: Sequence, options: str = "", strict: bool = True) -> Iterator[list[Site]]:
    """lockspacefs on each of these nodes. After a failure they are crashed, and the next test gets new ones."""
    sites = []
    try:
        with ThreadPoolExecutor() as pool:
            for future in [pool.submit(Site, node, options, strict) for node in nodes]:
                sites.append(future.result())
        yield sites
        for site in sites:
            site.end()
    except BaseException:
        for site in sites:
            site.give_up()
        for node in nodes:
            node.crash()
        raise


def make(sites: Sequence[Site], *names: str) -> None:
    """These lockspaces on each of them."""
    for answer in [site.start_making(*names) for site in sites]:
        answer.result()


@contextlib.contextmanager
def stopped(sites, lockspace="web"):
    """As in recovery, where all nodes stop: one that is started again alone asks the others for what they only have
    ready when they recover too, and then grants what they hold."""
    for site in sites:
        site.node.stop_lockspace(lockspace)
    try:
        yield
    finally:
        for site in sites:
            site.node.start_lockspace(lockspace)


def leave_nothing(nodes: Sequence) -> None:
    """A node on which a test that failed has left a lockspace is crashed: the next test gets a new one."""
    for node in nodes:
        if node.runs() and "name" in node.run("dlm_tool ls").stdout:
            node.crash()


if __name__ == "__main__":
    serve()
