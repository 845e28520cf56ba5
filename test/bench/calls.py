"""How long a call takes, beside the same call elsewhere, in blocks that take turns."""

import json
import os
import statistics
import subprocess

from servers import OPERATIONS, Etcd, Redis, SpinningNullFs, file_systems, helper

PLACEMENTS = ["one core", "two cores", "unpinned"]


def cpus_of(placement):
    """The CPUs of the clients, and those of the servers."""
    cpus = sorted(os.sched_getaffinity(0))
    return {"one core": ({cpus[0]}, {cpus[0]}),
            "two cores": ({cpus[0]}, {cpus[-1]}),
            "unpinned": (set(cpus), set(cpus))}[placement]


def run_client(cases, cpus, clients, block, rounds):
    """What bench-client has found, for each of the cases."""
    done = subprocess.run([str(helper("bench-client")), "-c", str(clients), "-b", str(block), "-r", str(rounds), *cases],
                          stdout=subprocess.PIPE, text=True, check=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    return json.loads(done.stdout)["cases"]


def ratio(found, other, clients):
    """Of the times in the same round, the median over all rounds. Of several clients it is the throughput that counts."""
    key = "block_medians" if clients == 1 else "block_times"
    return round(statistics.median(a / b for a, b in zip(found[key], other[key], strict=True)), 3)


def ratios(found, by_name, clients):
    """To each of the others."""
    return {name: ratio(found, other, clients) for name, other in by_name.items() if other is not found}


def joined(results):
    """One case in several runs of the client as if it had been one run."""
    return {"median": statistics.median(result["median"] for result in results),
            "p99": statistics.median(result["p99"] for result in results),
            "samples": sum(result["samples"] for result in results),
            **{key: [time for result in results for time in result[key]] for key in ("block_medians", "block_times")}}


def run_starts(bench, placement, clients, servers, cases, block):
    """Run the client several times. Who is not pinned begins each time on another CPU, and the scheduler goes on from
    there: where it leaves client and server decides much, and it tends to leave them there for the whole run."""
    client_cpus, server_cpus = cpus_of(placement)
    runs = []
    for start in range(bench.starts):
        for server in servers:
            server.pin({sorted(server_cpus)[start % len(server_cpus)]})
            server.pin(server_cpus)
        runs.append(run_client([case for _, case in cases], client_cpus, clients, block, bench.rounds))
    return [joined(results) for results in zip(*runs, strict=True)]


def measure(bench, group, placement, clients, what, servers, cases, block):
    """Rows for one operation. @cases: for each, what it is called and bench-client's argument; the first is set
    against all others, and so is the nullfs that spins, for it is the floor under the first."""
    found = run_starts(bench, placement, clients, servers, cases, block)
    rows = []
    for (name, _), result in zip(cases, found, strict=True):
        rows.append({
            "group": group, "placement": placement, "clients": clients, "what": what, "on": name,
            "median_us": result["median"], "p99_us": result["p99"], "samples": result["samples"],
            "per_second": round(1e6 / statistics.median(result["block_times"])),
        })
    by_name = {name: result for (name, _), result in zip(cases, found, strict=True)}
    rows[0]["against"] = ratios(found[0], by_name, clients)
    if SpinningNullFs.name in by_name:
        rows[0]["floor"] = ratios(by_name[SpinningNullFs.name], by_name, clients)
    return rows


def file_system_cases(servers, what):
    cases = [(server.name, server.case(what)) for server in servers]
    if what == "open+close in .ex":             # which spares the FLUSH that every other close sends
        nullfs = next(server for server in servers if server.name == "nullfs")
        cases.append(("nullfs with FLUSH", nullfs.case("open+close")))
    return cases


def file_system_rows(bench, group, placements, clients):
    with file_systems(bench.directory(), bench.options, bench.beside) as servers:
        for placement in placements:
            for what in OPERATIONS:
                yield from measure(bench, group, placement, clients, what, servers, file_system_cases(servers, what),
                                   bench.block)


def single_core(bench):
    return file_system_rows(bench, "single-core", ["one core"], 1)


def two_core(bench):
    return file_system_rows(bench, "two-core", ["two cores"], 1)


def unpinned(bench):
    return file_system_rows(bench, "unpinned", ["unpinned"], 1)


def four(bench):
    return file_system_rows(bench, "four", PLACEMENTS, 4)


def peers(bench):
    """A lock taken and dropped: on an open file, or by open and close; and by one request after the other on a warm
    connection to a lock server."""
    with file_systems(bench.directory(), bench.options) as (lockspacefs, *_):
        for kind, block in ((Redis, bench.block), (Etcd, max(bench.block // 10, 2))):       # etcd takes milliseconds
            if not kind.is_installed():
                bench.say(f"{kind.program} is not installed, so {kind.name} is not measured: test/bench/run --peers")
                continue
            with kind(bench.directory()) as peer:
                for placement in PLACEMENTS:
                    for clients in (1, 4):
                        for what in ("flock+unlock", "open+close in .ex"):
                            cases = [(server.name, server.case(what)) for server in (lockspacefs, peer)]
                            yield from measure(bench, "peers", placement, clients, f"{what}, {peer.name}", [lockspacefs, peer], cases,
                                               block)
