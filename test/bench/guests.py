"""What locks cost on a cluster of guests: by libdlm, by lockspacefs, by ocfs2's dlmfs.

On one node: how long a lock and its unlock take, all ways in turn in one process. Between two and three nodes: how
often a lock that all of them want changes hands. A guest has one CPU, and three of them share two.

A hand-over is a lock whose predecessor, in the order of time, was on another node: a node that takes its lock again
with nobody else in between hands over nothing. The processor's counter, one for all guests, puts the locks of all
nodes in that order. What counts is the time in which all nodes take part.
"""

import json
import shlex
import statistics
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from servers import daemon_path, helper

sys.path.append(str(Path(__file__).resolve().parent.parent / "cluster"))

from cluster import Cluster, LabError                           # noqa: E402

LIBDLM, LIBDLM_AST = "libdlm, one thread", "libdlm"             # the ordinary way is the one with its AST thread
FLOOR = "nullfs + libdlm"
DLMFS = "dlmfs"
FLOCK, OPEN, CALL = "flock+unlock", "open+close in .ex", "lock+unlock"
WANTED = {FLOCK: "flock, {} nodes", OPEN: "open in .ex, {} nodes"}


class Way(NamedTuple):
    """One to lock: what of which row, and how bench-dlm calls it."""
    what: str
    on: str
    argument: str


LIBDLM_WAYS = [Way(CALL, LIBDLM_AST, "libdlm-ast:bench"), Way(CALL, LIBDLM, "libdlm:bench")]
DLMFS_WAY = Way(OPEN, DLMFS, "open:/mnt/dlmfs/bench-dlmfs/bench")


def flock_way(name, directory=None):
    return Way(FLOCK, name, f"flock:{directory or f'/mnt/{name}/{lockspace_of(name)}'}/bench")


def open_way(name):
    return Way(OPEN, name, f"open:/mnt/{name}/{lockspace_of(name)}/.ex/bench")


def lockspace_of(name):
    """What a file system makes its locks in; libdlm uses lockspacefs's."""
    return "bench" if name == "lockspacefs" else f"bench-{name}"


class Handed(NamedTuple):
    """What the nodes that wanted one lock have got."""
    per_second: float                           # hand-overs
    retaken: float                              # of all locks: those that followed one of the same node
    shares: list                                # of all locks, by node
    longest_gap_ms: float                       # from a node's lock to its next


# --- what the nodes have ---

def builds(bench):
    """The daemons that are measured, by the name of their row: none is lockspacefs's own."""
    return {"lockspacefs": daemon_path().resolve()} | ({"beside": bench.beside.resolve()} if bench.beside else {})


@contextmanager
def lockspacefs(node, name, program, options):
    mountpoint, lockspace = f"/mnt/{name}", lockspace_of(name)
    with node.mount_lockspacefs(",".join(options), mountpoint, strict=False, program=program):
        node.run(f"mkdir {mountpoint}/{lockspace} && touch {mountpoint}/{lockspace}/bench", check=True)
        yield


@contextmanager
def nullfs(node):
    job = node.popen(f"mkdir /mnt/nullfs && exec {shlex.quote(str(helper('nullfs')))} /mnt/nullfs")
    node.run(f"until grep -q ' /mnt/nullfs fuse' /proc/mounts; do [ -d /proc/{job.pid} ] || exit 1; sleep 0.01; done", check=True)
    try:
        yield
    finally:
        node.run("umount /mnt/nullfs", check=True)
        job.wait(10)


def mount_dlmfs(node):
    """A directory in ocfs2's dlmfs is a lockspace of the DLM's ("user" stack). It goes with the node."""
    node.run(r"""printf '\0' >/sys/kernel/config/dlm/cluster/cluster_name && echo pcmk >/sys/fs/ocfs2/cluster_stack &&
                 mkdir /mnt/dlmfs && mount -t ocfs2_dlmfs none /mnt/dlmfs && mkdir /mnt/dlmfs/bench-dlmfs""", check=True)


@contextmanager
def cluster_of(size, bench, with_dlmfs):
    programs = builds(bench)
    directories = {program.parent for program in programs.values()} | {helper("bench-dlm").parent}
    with Cluster(size, kernel="debugfs", directories=sorted(directories)) as cluster, ExitStack() as stack:
        for node in cluster.nodes:
            for name, program in programs.items():
                stack.enter_context(lockspacefs(node, name, program, bench.options))
            if with_dlmfs:
                mount_dlmfs(node)
        yield cluster


def client(*words):
    return "exec " + shlex.join(map(str, (helper("bench-dlm"), *words)))


# --- one node ---

def ratio(turns, *others):
    """Of the times in the same turn, the median over all."""
    return round(statistics.median(own / sum(times) for own, *times in zip(turns, *others, strict=True)), 3)


def measure_alone(bench, ways):
    """What bench-dlm says of each way, by what and on."""
    seconds = 0.4 if bench.short else 4
    with cluster_of(1, bench, with_dlmfs=True) as cluster, nullfs(cluster.node(1)):
        command = client("alternate", seconds, *(way.argument for way in ways))
        done = cluster.node(1).run(command, timeout=60 + 4 * seconds * len(ways), check=True)
    lines = map(json.loads, done.stdout.splitlines())
    return {(way.what, way.on): line for way, line in zip(ways, lines, strict=True)}


def alone_rows(found, what):
    for (of, on), line in found.items():
        if of == what:
            yield {"group": "guest", "what": what, "on": on, "median_us": line["both"]["median"],
                   "p99_us": line["both"]["p99"], "samples": line["samples"],
                   "per_second": round(1e6 / line["both"]["mean"]),
                   "lock_us": line["lock"]["median"], "unlock_us": line["unlock"]["median"]}


def alone(bench):
    names = list(builds(bench))
    ways = [*LIBDLM_WAYS, *map(flock_way, names), flock_way("nullfs"), flock_way("tmpfs", "/tmp"), *map(open_way, names),
            open_way("nullfs"), DLMFS_WAY]
    found = measure_alone(bench, ways)
    turns = {key: line["turn_medians"] for key, line in found.items()}
    libdlm = turns[CALL, LIBDLM_AST]

    yield from alone_rows(found, CALL)
    for what in FLOCK, OPEN:
        ours, *others = alone_rows(found, what)
        own, null = turns[what, "lockspacefs"], turns[what, "nullfs"]
        ours["against"] = {row["on"]: ratio(own, turns[what, row["on"]]) for row in others}
        ours["against"][FLOOR] = ratio(own, null, libdlm)
        both = [a + b for a, b in zip(null, libdlm, strict=True)]
        yield from (ours, *others, {"group": "guest", "what": what, "on": FLOOR, "median_us": statistics.median(both)})


# --- several ---

def judge(locks, size, ticks_per_us):
    """@locks: (tick, node), in order."""
    of_node = [[tick for tick, node in locks if node == own] for own in range(size)]
    if not all(of_node):
        raise LabError("a node never had the lock")
    begin, end = max(ticks[0] for ticks in of_node), min(ticks[-1] for ticks in of_node)
    counted = [(tick, node) for tick, node in locks if begin <= tick <= end]
    if len(counted) < 2:
        raise LabError("the nodes did not want the lock at the same time")
    changes = sum(one[1] != other[1] for one, other in zip(counted, counted[1:]))
    gaps = (other - one for ticks in of_node for one, other in zip(ticks, ticks[1:]) if one <= end and begin <= other)
    return Handed(per_second=changes / ((end - begin) / ticks_per_us / 1e6),
                  retaken=1 - changes / (len(counted) - 1),
                  shares=[sum(node == own for _, node in counted) / len(counted) for own in range(size)],
                  longest_gap_ms=max(gaps) / ticks_per_us / 1e3)


def contend(cluster, argument, seconds):
    jobs = [node.popen(client("contend", seconds, argument), stdin=True) for node in cluster.nodes]
    for job in jobs:
        job.wait_for("ready")
    for job in jobs:
        job.send("\n")
    rates, locks = [], []
    for number, job in enumerate(jobs):
        done = job.wait(60)
        if done.returncode != 0:
            raise LabError(f"{job}: {done.stderr}")
        _, rate, *ticks = done.stdout.splitlines()
        rates.append(float(rate))
        locks += [(int(tick), number) for tick in ticks]
    return judge(sorted(locks), len(jobs), statistics.median(rates))


def handed_row(way, size, handed):
    return {"group": "hand-over", "what": WANTED[way.what].format(size), "on": way.on,
            "per_second": round(statistics.median(one.per_second for one in handed)),
            "retaken_percent": round(100 * statistics.median(one.retaken for one in handed), 1),
            "least_share_percent": round(100 * statistics.median(min(one.shares) for one in handed), 1),
            "longest_gap_ms": round(max(one.longest_gap_ms for one in handed), 1)}


def handed_ratio(handed, others):
    """Of the hand-overs in the same round, the median over all: more is better."""
    return round(statistics.median(one.per_second / other.per_second for one, other in zip(handed, others, strict=True)), 3)


def together(bench, size):
    rounds, seconds = (1, 1.5) if bench.short else (7, 1)
    names = list(builds(bench))
    libdlm, dlmfs = LIBDLM_WAYS[0], DLMFS_WAY
    ways = [libdlm, *map(flock_way, names), *map(open_way, names)] + ([dlmfs] if size == 2 else [])
    found = {way: [] for way in ways}
    with cluster_of(size, bench, dlmfs in ways) as cluster:
        for _ in range(rounds):
            for way in ways:
                found[way].append(contend(cluster, way.argument, seconds))
    for what in FLOCK, OPEN:
        handed = {way: found[way] for way in ways if way.what == what} | {libdlm._replace(what=what): found[libdlm]}
        ours, *others = (handed_row(way, size, each) for way, each in handed.items())
        own, *rest = handed.values()
        ours["against"] = {row["on"]: handed_ratio(own, each) for row, each in zip(others, rest, strict=True)}
        yield from (ours, *others)


def check_counter():
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        flags = next((line.split() for line in cpuinfo if line.startswith("flags")), [])
    if not {"constant_tsc", "nonstop_tsc"} <= set(flags):
        raise LabError("this processor's counter does not tell the time: locks of several guests cannot be put in order")


def rows(bench):
    check_counter()
    yield from alone(bench)
    yield from together(bench, 2)
    yield from together(bench, 3)
