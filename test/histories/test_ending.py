"""The program, told to end, takes along all that it has started."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lockspacefs_test import TIMEOUT, is_mounted, processes_with, umount, wait_until

RUN = Path(__file__).resolve().parent / "run"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("on", ["engine", "mount"])
def test_nothing_is_left_behind(helpers, directory, on, number):
    with subprocess.Popen([RUN, "--build", helpers.parent, "--on", on, "--ops", "100000000"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(directory)}) as run:
        try:
            wait_until(lambda: plays(run.pid, on))
            run.send_signal(number)
            said, _ = run.communicate(timeout=TIMEOUT)
            assert (run.returncode, said) == (128 + number, "")
            assert os.listdir(directory) == [] and processes_with(str(directory)) == []
        finally:
            run.kill()
            for mountpoint in filter(is_mounted, directory.glob("*/dlm")):
                umount(mountpoint, lazily=True)


def plays(pid, on):
    """It has come to the first history: there is an engine-driver, or a process of a client beside the daemon."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return len(children) > (on == "mount")
