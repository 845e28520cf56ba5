"""What the clients and watchers of a run have put down, and what was done to them: the History that judge.py judges.

Times are ticks of the processor's counter, the one clock that all guests and the host read.
"""

import ctypes
import dataclasses
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

MODES = ("nl", "cr", "cw", "pr", "pw", "ex")
TAIL = 1 << 14                                  # bytes at the end of a record: more than one section and one request


@dataclass
class Section:
    """One request for a lock, and the critical section that came of it."""
    client: str                                 # a process: one that is started again has another name
    node: int
    number: int
    resource: str                               # LOCKSPACE/NAME
    way: str
    mode: str
    is_try: bool
    asked: int
    begin: Optional[int] = None                 # it was granted, a little earlier
    end: Optional[int] = None                   # it was let go, a little later
    left: Optional[int] = None                  # it had been let go
    refused: Optional[int] = None               # the request came to nothing, with this errno
    refused_at: Optional[int] = None
    lost: Optional[int] = None                  # poll had told that the lock was gone
    reads: list = field(default_factory=list)   # (tick, value); value: text, "" never written or gone, or an errno
    write: Optional[str] = None                 # the value
    write_at: Optional[int] = None              # just before
    written: Optional[int] = None               # successfully, a little earlier
    synced: Optional[int] = None
    failed: list = field(default_factory=list)  # (tick, errno) of writing, fsync and letting go

    @property
    def lockspace(self) -> str:
        return self.resource.split("/")[0]

    def __str__(self) -> str:
        said = [f"{self.client} on node {self.node}: {self.mode.upper()} by {self.way} on {self.resource}, asked {self.asked}"]
        for name in ("begin", "end", "left", "refused", "lost"):
            if (value := getattr(self, name)) is not None:
                said.append(f"{name} {value}")
        said += [f"read {value!r} at {tick}" for tick, value in self.reads]
        if self.write:
            said.append(f"wrote {self.write!r} at {self.write_at}" + ("" if self.written else ", not to its end"))
        return ", ".join(said)


class View(NamedTuple):
    """Of the cluster, from a node: its corosync said so."""
    tick: int
    node: int
    is_quorate: bool
    members: frozenset                          # empty: corosync is gone


class Calm(NamedTuple):
    """All faults were over, and every node back, for so long."""
    begin: int
    served: Optional[int]                       # each client had got what it asked for since
    end: int


class Blow(NamedTuple):
    """What was done, and to whom: a fault began or was over between two ticks."""
    kind: str
    phase: str                                  # "begins" or "ends"
    node: int
    target: str                                 # the client, or the lockspace
    before: int
    after: int


@dataclass
class History:
    sections: list[Section] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    second: int = 1                             # ticks in one
    error: int = 0                              # of the clock: ticks that two CPUs may be apart
    calms: list[Calm] = field(default_factory=list)
    stopped: Optional[int] = None               # the clients were about to be killed

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self) | {"views": [[*view[:3], sorted(view.members)] for view in self.views]}))

    @classmethod
    def load(cls, path: Path) -> "History":
        saved = json.loads(path.read_text())
        saved["sections"] = [Section(**section) for section in saved["sections"]]
        saved["views"] = [View(*view[:3], frozenset(view[3])) for view in saved["views"]]
        saved["blows"] = [Blow(*blow) for blow in saved["blows"]]
        saved["calms"] = [Calm(*calm) for calm in saved["calms"]]
        return cls(**saved)


# --- reading what a node has put down --------------------------------------

def lines_of(path: Path, last: int = 0) -> Iterator[list[str]]:
    """Their words. The last line may have been cut off by the node's end, or a page of it come before the one in front: then
    that is zeroes. @last: only those in so many bytes at the end."""
    with path.open("rb") as file:
        if last and (begin := os.fstat(file.fileno()).st_size - last) > 0:
            file.seek(begin)
            file.readline()
        for line in file.read().partition(b"\0")[0].decode("ascii", "replace").split("\n")[:-1]:
            yield line.split(" ")


def read_client(path: Path, name: str, node: int) -> list[Section]:
    sections: dict[str, Section] = {}
    for tick, what, number, *rest in lines_of(path):
        now = int(tick)
        if what == "want":
            resource, way, mode, is_try = rest
            sections[number] = Section(name, node, int(number), resource, way, mode, is_try == "1", now)
            continue
        section = sections[number]
        if what == "refused":
            section.refused, section.refused_at = int(rest[0]), now
        elif what == "read":
            value = rest[0]
            section.reads.append((now, int(value[1:]) if value[0] == "!" else "" if value == "-" else value))
        elif what == "write":
            section.write, section.write_at = rest[0], now
        elif what in ("wrote", "synced", "left"):
            if rest[0] == "0":
                setattr(section, {"wrote": "written"}.get(what, what), now)
            else:
                section.failed.append((now, int(rest[0])))
        else:                                   # begin, lost, end
            setattr(section, what, now)
    return list(sections.values())


def last_served(path: Path) -> int:
    """When the client asked for the last lock that it got, if it did so of late; else 0."""
    wanted, served = {}, 0
    for tick, what, number, *_ in lines_of(path, TAIL):
        if what == "want":
            wanted[number] = int(tick)
        elif what == "begin":
            served = wanted.get(number, 0)
    return served


def read_watch(path: Path, node: int) -> list[View]:
    views = []
    for tick, what, *rest in lines_of(path):
        members = frozenset(map(int, rest[1:])) if what == "members" else frozenset()
        views.append(View(int(tick), node, what == "members" and rest[0] == "1", members))
    return views


# --- the clock -------------------------------------------------------------

class Clock:
    """The processor's counter. It is the same in guests as here, since nobody stands between it and a program."""

    def __init__(self, library: Path):
        flags = next(line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
        if not {"constant_tsc", "nonstop_tsc"} <= set(flags):
            raise RuntimeError("this processor's counter does not tell the time: what guests record cannot be put in order")
        self._ticks = ctypes.CDLL(str(library)).faults_ticks
        self._ticks.restype = ctypes.c_uint64
        began, ticks = time.monotonic(), self.now()
        time.sleep(0.2)
        self.second = round((self.now() - ticks) / (time.monotonic() - began))

    def now(self) -> int:
        return self._ticks()

    def offset_between_cpus(self, rounds: int = 2000) -> float:
        """Seconds by which one CPU's counter may be ahead of another's, at most: a message never arrives before it was sent."""
        cpus = sorted(os.sched_getaffinity(0))
        return max((self._offset(cpus[0], other, rounds) for other in cpus[1:]), default=0.0)

    def _offset(self, one: int, other: int, rounds: int) -> float:
        """The other answers with its counter. It was read between two of ours: the narrowest of these bounds the offset."""
        (there, to), (back, answer) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.sched_setaffinity(0, {other})
            while os.read(there, 1) == b"?":
                os.write(answer, self.now().to_bytes(8, "little"))
            os._exit(0)
        kept = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {one})
        low, high = float("-inf"), float("inf")
        try:
            for _ in range(rounds):
                sent = self.now()
                os.write(to, b"?")
                said = int.from_bytes(os.read(back, 8), "little")
                low, high = max(low, said - self.now()), min(high, said - sent)
        finally:
            os.write(to, b".")
            os.waitpid(pid, 0)
            for fd in (there, to, back, answer):
                os.close(fd)
            os.sched_setaffinity(0, kept)
        if low > high:
            raise RuntimeError("the counters of the processors drift apart")
        return max(abs(low), abs(high)) / self.second
