"""That the benchmark works: it measures all it says, writes it down, judges it, and leaves nothing behind. Never how fast."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lockspacefs_test import NOBODY, PROJECT, TIMEOUT, daemon_path, processes_with, wait_until

BENCH = PROJECT / "test/bench"
sys.path.insert(0, str(BENCH))

import bench                                                    # noqa: E402
import report                                                   # noqa: E402
from calls import PLACEMENTS, ratio                             # noqa: E402
from servers import OPERATIONS                                  # noqa: E402
from targets import TARGETS, Target                             # noqa: E402

LOCAL = ["single-core", "two-core", "unpinned", "four", "peers", "growth", "listing", "memory"]


def run_bench(*arguments, program=BENCH / "run", **kwargs):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=240, **kwargs)


class Short:
    """What the short form has printed and written, and where its temporary files were."""

    def __init__(self, work):
        self.work = work
        self.json = work / "figures.json"
        (work / "tmp").mkdir()
        done = run_bench("--short", "--json", self.json, *(word for group in LOCAL for word in ("--only", group)),
                     env={**os.environ, "TMPDIR": str(work / "tmp")})
        assert done.returncode == 0, done.stderr
        self.printed = done.stdout


@pytest.fixture(scope="module")
def short():
    with tempfile.TemporaryDirectory(prefix="lockspacefs-") as work:
        yield Short(Path(work))


@pytest.fixture(scope="module")
def rows(short):
    run, = json.loads(short.json.read_text())["runs"]
    return run


def of_group(rows, group):
    return [row for row in rows if row["group"] == group]


@pytest.mark.parametrize("group, clients, placements", [
    ("single-core", 1, ["one core"]), ("two-core", 1, ["two cores"]), ("unpinned", 1, ["unpinned"]), ("four", 4, PLACEMENTS)])
def test_each_operation_is_timed_on_each_file_system(rows, group, clients, placements):
    seen = {(row["placement"], row["clients"], row["what"], row["on"]) for row in of_group(rows, group)}
    expected = {(placement, clients, what, on) for placement in placements for what in OPERATIONS
                for on in ("lockspacefs", "nullfs", "nullfs, spinning", "tmpfs")}
    expected |= {(placement, clients, "open+close in .ex", "nullfs with FLUSH") for placement in placements}
    assert seen == expected


def test_lock_servers_are_timed_beside_lockspacefs(rows):
    seen = {(row["placement"], row["clients"], row["what"], row["on"]) for row in of_group(rows, "peers")}
    assert seen == {(placement, clients, f"{what}, {peer}", on) for placement in PLACEMENTS for clients in (1, 4)
                    for what in ("flock+unlock", "open+close in .ex") for peer in ("redis", "etcd") for on in ("lockspacefs", peer)}


def test_times_are_times_and_the_first_is_set_against_the_others(rows):
    timed = [row for row in rows if "p99_us" in row]
    assert len(timed) > 200
    for row in timed:
        assert 0 < row["median_us"] <= row["p99_us"] and row["samples"] >= 10
        others = {other["on"] for other in timed
                  if all(other.get(key) == row.get(key) for key in ("group", "placement", "clients", "what"))} - {row["on"]}
        if row["on"] in ("lockspacefs", "1,000"):
            assert set(row["against"]) == others and others
        else:
            assert "against" not in row


def test_a_round_trip_to_the_daemon_takes_longer_than_the_kernels_own_lock(rows):
    """Each request that was to arrive did: of fcntl locks the kernel keeps those itself that nobody asks for."""
    for group in ("single-core", "two-core", "unpinned"):
        for row in of_group(rows, group):
            if row["on"] in ("lockspacefs", "nullfs", "nullfs, spinning"):
                tmpfs, = (other for other in of_group(rows, group) if (other["what"], other["on"]) == (row["what"], "tmpfs"))
                assert row["median_us"] > 1.5 * tmpfs["median_us"], (row, tmpfs)


def test_growth_and_memory_are_there(rows):
    sizes = {}
    for row in of_group(rows, "growth") + of_group(rows, "listing"):
        sizes.setdefault(row["what"], []).append(row["on"])
    locks = ["1,000", "100", "10"]
    assert sizes == {"flock+unlock, N locks on one resource": locks, "flock+unlock, N locks on N resources": locks,
                     "open+flock+unlock+close, N locks on N resources": locks, "hand-over, N waiters": locks,
                     **{f"{what}, N files": ["10,000", "1,000", "100"] for what in ("create", "stat", "list")}}
    assert {row["what"] for row in of_group(rows, "memory")} == {
        "lock file", "open file", "held lock, with its open file", "waiter, with its open file"}
    assert all(0 < row["bytes"] < 10000 for row in of_group(rows, "memory"))


def test_every_target_has_its_row(rows):
    """The short form has less of everything, so that the rows of the largest sizes are missing."""
    for target in TARGETS:
        if target.group in LOCAL and target.group not in ("growth", "listing"):
            assert target.value(rows) is not None, target
            assert (target.floor_value(rows) is not None) == (target.against in ("nullfs", "nullfs with FLUSH")), target
        elif target.group in LOCAL:
            assert any(row["what"] == target.what for row in of_group(rows, target.group)), target


def test_the_tables_have_all_rows_and_targets(short, rows):
    for row in rows:
        assert row["what"] in short.printed
    measured = [target for target in TARGETS if target.value(rows) is not None]
    assert len(measured) > 10
    for target in measured:
        line, = (line for line in short.printed.splitlines() if line.startswith(f"{target.name}  "))
        assert line.endswith("met" if target.is_met(target.value(rows)) else "MISSED")


def test_nothing_is_left(short):
    assert list((short.work / "tmp").iterdir()) == []
    assert str(short.work) not in Path("/proc/self/mounts").read_text()
    assert processes_with(short.work) == []


def test_plot_makes_pictures(short, directory):
    done = run_bench(short.json, directory, program=BENCH / "plot")
    assert done.returncode == 0, done.stderr
    for name, words in (("targets.svg", "to nullfs"), ("growth.svg", "hand-over")):
        assert str(directory / name) in done.stdout
        picture = ElementTree.parse(directory / name).getroot()
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        assert words in "".join(picture.itertext())


def test_another_build_is_measured_beside(directory):
    done = run_bench("--short", "--only", "single-core", "-o", "spin=0", "--beside", daemon_path().resolve(),
                 "--json", directory / "figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((directory / "figures.json").read_text())
    assert figures["options"] == "spin=0" and len(figures["runs"]) == 1
    assert {row["what"] for row in figures["runs"][0] if row["on"] == "beside"} == set(OPERATIONS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(directory, number):
    with subprocess.Popen([BENCH / "run", "--only", "single-core"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "TMPDIR": str(directory)}) as running:
        wait_until(lambda: {*processes_with("/nullfs/dlm")} & {*processes_with(f"{directory}/")}, timeout=120)
        running.send_signal(number)
        assert "test/bench/run: interrupted\n" in running.communicate(timeout=TIMEOUT)[1]
        assert running.returncode == 130
    assert processes_with(f"{directory}/") == []
    assert list(directory.iterdir()) == []


def test_commands_of_the_documents_are_well_formed():
    """They take minutes; the short form runs above."""
    commands = [line for document in (PROJECT / "README.md", BENCH / "README.md")
                for line in re.findall(r"^    test/bench/run\b(.*?)(?:  +#.*)?$", document.read_text(), re.M)]
    assert len(commands) >= 6
    for command in commands:
        bench.parse(command.split())


# --- judgement ---------------------------------------------------------------

def test_ratio_is_of_the_same_round():
    """A machine that gets three times as slow meanwhile changes nothing."""
    ours = {"block_medians": [2, 4, 6, 6], "block_times": [30, 30, 30, 30]}
    other = {"block_medians": [1, 2, 3, 3], "block_times": [10, 10, 10, 10]}
    assert ratio(ours, other, clients=1) == 2
    assert ratio(ours, other, clients=4) == 3


def row(**more):
    return {"group": "g", "what": "w", "on": "lockspacefs", "bytes": 300, "against": {"nullfs": 1.5}, **more}


@pytest.mark.parametrize("target, met", [
    (Target("t", "g", "w", 1.5, against="nullfs"), True),
    (Target("t", "g", "w", 1.49, against="nullfs"), False),
    (Target("t", "g", "w", 1.51, against="nullfs", at_least=True), False),
    (Target("t", "g", "w", 300, figure="bytes"), True),
    (Target("t", "g", "w", 299, figure="bytes"), False),
    (Target("t", "g", "other", 1.5, against="nullfs"), None),
    (Target("t", "g", "w", 1.5, against="other"), None),
])
def test_a_target_is_met_missed_or_not_measured(monkeypatch, target, met):
    monkeypatch.setattr(report, "TARGETS", [target])
    verdict, = report.verdicts([[row()]])
    assert verdict["met"] is met


def test_a_target_is_met_only_if_every_run_meets_it(monkeypatch):
    monkeypatch.setattr(report, "TARGETS", [Target("t", "g", "w", 1.5, against="nullfs")])
    verdict, = report.verdicts([[row()], [row(against={"nullfs": 1.6})], [row()]])
    assert verdict["met"] is False and verdict["values"] == [1.5, 1.6, 1.5]


def test_the_floor_of_a_target_is_what_the_spinning_nullfs_takes(monkeypatch):
    monkeypatch.setattr(report, "TARGETS", [Target("t", "g", "w", 1.0, against="nullfs")])
    verdict, = found = report.verdicts([[row(floor={"nullfs": 1.25, "tmpfs": 9})], [row()]])
    assert verdict["floors"] == [1.25, None] and verdict["met"] is False
    assert report.table_of_verdicts(found).splitlines()[1].split() == ["t", "at", "most", "1.000", "1.500", "1.500", "1.250", "MISSED"]


def test_a_target_without_a_floor_shows_none(monkeypatch):
    monkeypatch.setattr(report, "TARGETS", [Target("t", "g", "w", 300, figure="bytes")])
    found = report.verdicts([[row()]])
    assert report.table_of_verdicts(found).splitlines()[1].split() == ["t", "at", "most", "300", "300", "met"]


# --- mistakes ------------------------------------------------------------------

def test_unknown_group_is_refused():
    done = run_bench("--only", "everything")
    assert done.returncode == 2 and "single-core" in done.stderr


def test_needs_root(directory):
    done = run_bench("--short", user=NOBODY, group=NOBODY, extra_groups=[])
    assert done.returncode == 1 and "run it as root" in done.stderr


def test_plot_says_what_is_wrong(directory):
    done = run_bench(directory / "missing.json", program=BENCH / "plot")
    assert done.returncode == 2 and "missing.json" in done.stderr


def test_what_was_measured_is_told_though_a_later_run_fails(monkeypatch, tmp_path, capsys):
    """Minutes of measuring are not lost."""
    results = iter([[{"group": "memory", "what": "waiter, with its open file", "on": "lockspacefs", "bytes": 500}], OSError("gone")])

    def measure(_):
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return result
    monkeypatch.setattr(bench, "GROUPS", {"memory": measure})
    with pytest.raises(OSError, match="gone"):
        bench.main(["--runs", "3", "--json", str(tmp_path / "figures.json")])
    assert len(json.loads((tmp_path / "figures.json").read_text())["runs"]) == 1
    assert "waiter, with its open file" in capsys.readouterr().out
