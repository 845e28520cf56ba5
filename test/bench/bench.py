"""Measures lockspacefs beside what it stands on and what it stands for. test/bench/run starts it."""

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import calls
import growth
import guests
import report
from servers import daemon_path

GROUPS = {
    "single-core": calls.single_core,
    "two-core": calls.two_core,
    "unpinned": calls.unpinned,
    "four": calls.four,
    "peers": calls.peers,
    "growth": growth.growth,
    "listing": growth.listing,
    "memory": growth.memory,
    "cluster": guests.rows,
}


class Bench:
    """How much is measured, and where its directories are. A group is a function of it that yields rows."""

    def __init__(self, arguments, work):
        self.short = arguments.short
        self.options = arguments.options.split(",") if arguments.options else []
        self.beside = arguments.beside
        self.block, self.rounds, self.starts = (20, 4, 2) if self.short else (100, 15, 6)
        self.lock_counts = [10, 100, 1000] if self.short else [10, 1000, 100000]
        self.waiter_counts = [10, 100, 1000] if self.short else [10, 1000, 10000]
        self.chain_rounds = 1 if self.short else 5
        self.file_counts = [100, 1000, 10000] if self.short else [10000, 100000, 1000000]
        self._names = (Path(work) / str(i) for i in itertools.count())

    def directory(self):
        """One that is not there yet."""
        return next(self._names)

    @staticmethod
    def say(text):
        print(text, file=sys.stderr, flush=True)


def parse(argv):
    parser = argparse.ArgumentParser(prog="test/bench/run", description="Measure lockspacefs beside a do-nothing FUSE file "
                                     "system, the kernel's own locks and other lock servers, and print tables.")
    parser.add_argument("--only", metavar="GROUP", action="append", choices=GROUPS,
                        help=f"only that group; may be given again. Groups: {', '.join(GROUPS)}")
    parser.add_argument("--peers", action="store_true", help="install redis-server and etcd-server, and measure them too")
    parser.add_argument("--runs", metavar="N", type=int, default=1, help="measure all N times; a target is met if it is in each")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, for test/bench/plot")
    parser.add_argument("--short", action="store_true", help="see whether it works: the figures mean little")
    parser.add_argument("-o", dest="options", metavar="OPTION[,OPTION...]", help="mount options for lockspacefs")
    parser.add_argument("--beside", metavar="PROGRAM", type=Path, help="another build of lockspacefs, measured in turn with it")
    arguments = parser.parse_args(argv)
    if arguments.runs < 1:
        parser.error("--runs: at least 1")
    return arguments


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        models = {line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")}
    return {"cpu": ", ".join(sorted(models)), "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20}


def run(bench, groups):
    rows = []
    for name in groups:
        begin = time.monotonic()
        rows += GROUPS[name](bench)
        bench.say(f"{name}: {time.monotonic() - begin:.0f} s")
    return rows


def tell(arguments, runs):
    found = report.verdicts(runs)
    print(report.tables(runs[-1]))
    print()
    print(report.table_of_verdicts([verdict for verdict in found if not arguments.only or verdict["met"] is not None]))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "program": str(daemon_path()), "options": arguments.options,
                                              "short": arguments.short, "runs": runs, "targets": found}, indent=1) + "\n")


def main(argv):
    arguments = parse(argv)
    groups = [name for name in GROUPS if not arguments.only or name in arguments.only]
    runs = []
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        os.chmod(work, 0o755)
        bench = Bench(arguments, work)
        try:
            for _ in range(arguments.runs):
                runs.append(run(bench, groups))
        finally:
            if runs:
                tell(arguments, runs)           # also when a later one has failed
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
