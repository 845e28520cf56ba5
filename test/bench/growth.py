"""What very many locks, waiters and files cost: each of them, as they get more, in time and in memory."""

import contextlib
import json
import os
import re
import statistics
import subprocess
from pathlib import Path

from calls import cpus_of, ratio, run_client
from servers import LockspaceFs, helper, status, touch, wait_until


def pin(servers):
    """Daemons and clients on one core, where times are steadiest; the CPUs for the clients."""
    client_cpus, server_cpus = cpus_of("one core")
    for server in servers:
        server.pin(server_cpus)
    return client_cpus


class Program:
    """One that is spoken to in lines. It ends with its input."""

    def __init__(self, *command, cpus=None):
        self._command = [str(word) for word in command]
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         preexec_fn=cpus and (lambda: os.sched_setaffinity(0, cpus)))

    def say(self, line=""):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self):
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self._command[0]} has ended with status {self._process.wait()}")
        return line

    def ask(self, line):
        self.say(line)
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            self._process.kill()
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def held(way, lockspace, name, count, *how):
    """That many locks, until the end of the block."""
    with Program(helper("hold"), way, lockspace, name, count, *how) as program:
        assert program.hear() == "held"
        yield


def number(count):
    return f"{count:,}"


def row(group, what, on, **figures):
    return {"group": group, "what": what, "on": on, **figures}


# --- time ------------------------------------------------------------------

def locks_rows(bench, what, hold, operation, name):
    """The time of one more lock where there are many, on a daemon each, in turn. @hold: how they are held."""
    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(LockspaceFs(bench.directory(), *bench.options)) for _ in bench.lock_counts]
        client_cpus = pin(mounts)
        for mount, count in zip(mounts, bench.lock_counts, strict=True):
            way, held_name, *how = hold
            stack.enter_context(held(way, mount.mountpoint / "web", held_name, count, *how))
        found = run_client([f"{operation}={mount.mountpoint / 'web' / name}" for mount in mounts], client_cpus, 1,
                           bench.block, bench.rounds * bench.starts)
    rows = [row("growth", what, number(count), median_us=result["median"], p99_us=result["p99"], samples=result["samples"])
            for count, result in zip(bench.lock_counts, found, strict=True)]
    rows[-1]["against"] = {other["on"]: ratio(found[-1], result, 1)
                           for other, result in zip(rows[:-1], found[:-1], strict=True)}
    return rows[::-1]


def chain_rows(bench):
    with LockspaceFs(bench.directory(), *bench.options) as mount:
        client_cpus = pin([mount])
        done = subprocess.run([str(helper("bench-chain")), str(mount.mountpoint / "web"), str(mount.mountpoint / ".status"),
                               str(bench.chain_rounds), *map(str, bench.waiter_counts)],
                              stdout=subprocess.PIPE, check=True, preexec_fn=lambda: os.sched_setaffinity(0, client_cpus))
    chains = json.loads(done.stdout)["chains"]
    rows = [row("growth", "hand-over, N waiters", number(chain["count"]), median_us=statistics.median(chain["hand_over_us"]))
            for chain in chains]
    rows[-1]["against"] = {
        other["on"]: round(statistics.median(a / b for a, b in zip(chains[-1]["hand_over_us"], chain["hand_over_us"], strict=True)), 3)
        for other, chain in zip(rows[:-1], chains[:-1], strict=True)}
    return rows[::-1]


def growth(bench):
    yield from locks_rows(bench, "flock+unlock, N locks on one resource", ("flock-shared", "one-0"), "flock-shared", "one")
    yield from locks_rows(bench, "flock+unlock, N locks on N resources", ("flock", "many", "numbered"), "flock", "one-more")
    yield from locks_rows(bench, "open+flock+unlock+close, N locks on N resources", ("flock", "many", "numbered"),
                          "open-flock", "one-more")
    yield from chain_rows(bench)


# --- files -----------------------------------------------------------------

def listing(bench):
    """Per file; and of the list of all of them the seconds too."""
    found = {}
    with LockspaceFs(bench.directory(), *bench.options) as mount:
        with Program(helper("bench-files"), mount.mountpoint / "web", cpus=pin([mount])) as files:
            before = 0
            for count in bench.file_counts:
                found[count] = {"create": float(files.ask(f"create {count}")) / (count - before),
                                "stat": float(files.ask(f"stat {min(count, 100000)}")) / min(count, 100000),
                                "list": statistics.median(float(files.ask(f"list {count}")) for _ in range(3)) / count}
                before = count
    for what in ("create", "stat", "list"):
        rows = []
        for count, times in found.items():
            rows.append(row("listing", f"{what}, N files", number(count), median_us=round(times[what] * 1e6, 3)))
            if what == "list":
                rows[-1]["seconds"] = round(times[what] * count, 3)
        rows[-1]["against"] = {other["on"]: round(rows[-1]["median_us"] / other["median_us"], 3) for other in rows[:-1]}
        yield from rows[::-1]


# --- memory ----------------------------------------------------------------

def rss(server):
    text = Path(f"/proc/{server.pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"^Rss: +(\d+) kB", text, re.M)[1]) * 1024


def memory(bench):
    """What each of very many adds to the daemon."""
    def grown(what, mount, before, count):
        return row("memory", what, "lockspacefs", bytes=round((rss(mount) - before) / count), samples=count)

    count = bench.lock_counts[-1]
    with LockspaceFs(bench.directory(), *bench.options) as mount:
        before = rss(mount)
        with Program(helper("bench-files"), mount.mountpoint / "web") as files:
            files.ask(f"create {count}")
            yield grown("lock file", mount, before, count)
    with LockspaceFs(bench.directory(), *bench.options) as mount:
        before = rss(mount)
        with held("flock-shared", mount.mountpoint / "web", "one", count):
            yield grown("held lock, with its open file", mount, before, count)
    count = bench.waiter_counts[-1]
    with LockspaceFs(bench.directory(), *bench.options) as mount:
        before = rss(mount)
        lockspace = mount.mountpoint / "web"
        touch(lockspace / "one")
        with Program(helper("waiters"), lockspace / "one", count) as waiters, contextlib.ExitStack() as holder:
            assert waiters.hear() == "opened"
            yield grown("open file", mount, before, count)
            holder.enter_context(held("flock", lockspace, "one", 1))
            waiters.say()
            wait_until(lambda: status(mount.mountpoint)["waiting"] == count)
            yield grown("waiter, with its open file", mount, before, count)
            holder.close()
            assert waiters.hear() == f"granted {count}"
