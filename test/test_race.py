"""Once close() has returned, a try-lock by anyone on the node succeeds, every time."""

import subprocess

import pytest

from lockspacefs_test import locks, wait_until

ROUNDS = {"local": 10000, "dlm": 2000}          # in a guest each costs twenty times as much


@pytest.mark.parametrize("way", ["flock", "flock-shared", "posix", "ofd", "open"])
@pytest.mark.parametrize("processes", [40, 200])
@pytest.mark.parametrize("files", ["own", "pairs"])
def test_a_try_lock_after_a_close_never_fails(lockspace, helpers, engine, way, processes, files):
    """In pairs it is the other's close, not one's own."""
    rounds = ROUNDS[engine]
    command = [helpers / "race", way, lockspace, str(processes), str(rounds), *(["pairs"] if files == "pairs" else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=200, check=True)
    assert done.stdout == f"rounds {rounds}\nrefused 0\n"
    wait_until(lambda: not locks(lockspace))
