"""What a daemon has given up once it is mounted: /proc says so, and lockspacefs(8) says the same."""

import os
import re

import pytest

from lockspacefs_test import PROJECT, NOBODY, Daemon, get

NUMBERS = {"CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "SYS_PTRACE": 19, "SYS_ADMIN": 21}
FILTER = "2"                                    # SECCOMP_MODE_FILTER


def threads_of(pid):
    """What /proc/PID/status says, for each thread."""
    for task in os.listdir(f"/proc/{pid}/task"):
        text = get(f"/proc/{pid}/task/{task}/status").decode()
        yield dict(line.split(":\t", 1) for line in text.splitlines())


def kept_by_the_manual(engine):
    """The mask of the capabilities that lockspacefs(8) has for an engine."""
    page = (PROJECT / "man/lockspacefs.8").read_text(encoding="utf-8")
    section = re.search(r"\.Ss What it gives up\n(.*?)\n\.Ss ", page, re.DOTALL)[1]
    lists = re.findall(r"^\.It Cm (local|dlm)\n([^.]*)", section, re.MULTILINE)
    return sum(1 << NUMBERS[name] for name in re.findall(r"CAP_(\w+)", dict(lists)[engine]))


@pytest.fixture
def many_groups():
    old = os.getgroups()
    os.setgroups([4, 24, 27])
    yield
    os.setgroups(old)


def test_what_is_left_is_what_the_manual_says(many_groups, mount, daemon, engine):
    (mount / "web").mkdir()                     # with dlm, a thread that was made later
    for thread in threads_of(daemon.pid):
        for which in ["CapEff", "CapPrm", "CapBnd"]:
            assert int(thread[which], 16) == kept_by_the_manual(engine), (thread["Name"], which)
        assert int(thread["CapInh"], 16) == int(thread["CapAmb"], 16) == 0
        assert (thread["NoNewPrivs"], thread["Seccomp"]) == ("1", FILTER), thread["Name"]
        assert thread["Groups"].strip() == ""


def test_no_filter_is_missing_in_silence(daemon):
    assert "without a filter" not in daemon.log


def test_an_ordinary_user_has_nothing_to_give_up_and_can_still_unmount(directory, fuse_device):
    with Daemon(directory, engine="local", user=NOBODY, allow_other=False) as daemon:
        for thread in threads_of(daemon.pid):
            assert int(thread["CapEff"], 16) == int(thread["CapPrm"], 16) == 0
            assert (thread["NoNewPrivs"], thread["Seccomp"]) == ("0", "0")
