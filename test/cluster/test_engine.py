"""The engine dlm by itself, through include/engine.h, without a mount: test/test-engine-dlm.c on a node."""

from pathlib import Path

import pytest

import lockspacefs_test
from test_cluster_lab import hold


@pytest.fixture(scope="module")
def program():
    path = lockspacefs_test.daemon_path().resolve().parent.parent / "test" / "test-engine-dlm"
    assert path.exists(), f"no {path}: build it"
    return path


def run_test(node, program: Path, *arguments: str) -> list[str]:
    """The names of the tests that passed; nothing else may have happened."""
    done = node.run(f"G_DEBUG=fatal-criticals {program} --tap {' '.join(arguments)}", timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not [line for line in lines if line.startswith("not ok")], done
    return [line.split()[2] for line in lines if line.startswith("ok ") and "# SKIP" not in line]


def test_on_one_node(one_node, program):
    listed = one_node.node(1).run(f"{program} -l", check=True).stdout.split()
    assert run_test(one_node.node(1), program) == [word for word in listed if word.startswith("/dlm/") and word != "/dlm/remote"]


def test_with_another_node(two_nodes, program):
    """The other holds `r` with EX, and `mine`, which is mastered here, with PR."""
    one, two = two_nodes.node(1), two_nodes.node(2)
    two_nodes.join("remote")
    master = hold(one, "remote", "NL", "mine")
    jobs = [hold(two, "remote", "EX", "r"), hold(two, "remote", "PR", "mine")]
    master.kill()
    assert run_test(one, program, "-p", "/dlm/remote") == ["/dlm/remote"]
    for job in jobs:
        assert job.poll() is None                   # they still hold
        job.kill()
