"""Programs of 32 bits that know no O_LARGEFILE. Not in guests: User-Mode Linux has no int 0x80 for them."""

import os
import platform
import subprocess

import pytest

from lockspacefs_test import TIMEOUT, locks

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="has no int 0x80")


@pytest.mark.parametrize("how", ["open", "openat"])
def test_they_open_in_a_mode_directory(lockspace, job, helpers, how):
    """As the kernel does by itself. Where nothing tells them apart they are refused."""
    expected = "opened" if os.path.exists("/proc/self/syscall") else "ENOTTY"
    with subprocess.Popen([helpers / "int80", how, lockspace / ".pr" / "job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as program:
        assert program.stdout.readline() == f"{expected}\n"
        assert [(row["mode"], row["pid"]) for row in locks(lockspace)] == ([("PR", program.pid)] if expected == "opened" else [])
        program.stdin.close()


def test_an_ioctl_does_not_wait_for_its_own_lock(lockspace, job, helpers):
    done = subprocess.run([helpers / "int80", "flags", lockspace / ".ex" / "job"], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=TIMEOUT, check=True)
    assert done.stdout in ("ENOTTY\n", "EOPNOTSUPP\n")
