"""The short form of test/faults: clients on three and five nodes to which everything happens."""

import re
import subprocess

import pytest

import tools

RUN = tools.PROJECT / "test" / "faults" / "run"


def run(*arguments):
    """Its status, and the figures of its last line."""
    done = subprocess.run([RUN, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False)
    closing = done.stdout.strip().split("\n")[-1]
    assert closing.startswith("seed "), done.stdout + done.stderr
    figures = {what: int(number) for number, what in re.findall(r"(\d+) (sections|hand-overs|values read|values written)\b", closing)}
    print(done.stdout)
    return done, figures


@pytest.mark.parametrize("nodes, clients, seed", [(3, 4, 1), (5, 3, 2)])
def test_it_excludes_serves_and_keeps_values_whatever_fails(debugfs_kernel, nodes, clients, seed):
    done, figures = run("--nodes", nodes, "--clients", clients, "--seed", seed, "--seconds", 8)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["sections"] > 200 and figures["hand-overs"] > 50 and figures["values read"] > 100
    assert "no violation" in done.stdout


def test_clients_that_ignore_locks_are_found(debugfs_kernel):
    done, figures = run("--nodes", 2, "--seed", 3, "--seconds", 2, "--kinds", "", "--broken")
    assert done.returncode == 1 and "two at once" in done.stdout and "VIOLATIONS" in done.stdout
