"""The short form of test/faults: clients on three and five nodes to which everything happens."""

import re
import subprocess
import sys

import pytest

import tools

sys.path.append(str(tools.PROJECT / "test" / "faults"))
from schedule import KINDS

RUN = tools.PROJECT / "test" / "faults" / "run"


@pytest.fixture
def run(tmp_path):
    return lambda *arguments: run_in(tmp_path, *arguments)


def run_in(directory, *arguments):
    """Its status, and the figures of its last line."""
    done = subprocess.run([RUN, "--keep", directory / "history", *map(str, arguments)], capture_output=True, text=True, timeout=400, check=False)
    closing = done.stdout.strip().split("\n")[-1]
    assert closing.startswith("seed "), done.stdout + done.stderr
    figures = {what: int(number) for number, what in re.findall(r"(\d+) (sections|hand-overs|values read|forgotten)\b", closing)}
    print(done.stdout)
    return done, figures


SMALL = ["client-kill", "client-freeze", "daemon-kill", "daemon-freeze", "force", "node-pause", "link-blink", "node-kill", "link-cut"]
LARGE = ["quorum", "node-return"]
LONG_RUNS = ["node-hang", "link-split", "controld-kill"]         # what these have as well, and takes its time


@pytest.mark.parametrize("nodes, clients, seed, kinds", [(3, 4, 1, SMALL), (5, 3, 2, LARGE)])
def test_it_excludes_serves_and_keeps_values_whatever_fails(debugfs_kernel, run, nodes, clients, seed, kinds):
    done, figures = run("--nodes", nodes, "--clients", clients, "--seed", seed, "--seconds", 8, "--each", "--kinds", ",".join(kinds))
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["sections"] > 200 and figures["hand-overs"] > 50 and figures["values read"] > 100
    assert figures["forgotten"] < figures["values read"] / 20         # an excuse for what is rare
    assert set(kinds) <= set(re.findall(r"([a-z-]+) [1-9]", done.stdout.split("faults: ")[1]))
    assert "no violation" in done.stdout


def test_no_kind_of_fault_is_forgotten():
    assert sorted(SMALL + LARGE + LONG_RUNS) == sorted(KINDS)


def test_clients_that_ignore_locks_are_found(debugfs_kernel, run):
    done, figures = run("--nodes", 2, "--seed", 3, "--seconds", 4, "--kinds", "", "--broken")
    assert done.returncode == 1 and "two at once" in done.stdout and "VIOLATIONS" in done.stdout
