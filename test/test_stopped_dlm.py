"""What is given up while a lockspace of the DLM is stopped, and what comes of it when that goes on."""

import errno
import os
import signal

import pytest

from locking import (FCNTL_WAYS, by, errno_name, held, is_free, raw_lock, stopped, taken, unlock, wait_until_queued)
from lockspacefs_test import Child, get, opened, put, raises_errno, wait_until, waiters


def change(peer, way, path, then):
    """Has PR, waits for EX until a signal comes, and then does something else."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    with opened(path) as fd:
        assert raw_lock(way, fd, "pr") == 0
        peer.say(errno_name(raw_lock(way, fd, "ex")))
        if then == "write":
            with raises_errno(errno.ENOLCK):
                os.write(fd, b"new")
        elif then == "unlock":
            unlock(way, fd)
        peer.say("on")
        if then == "change":
            peer.say(errno_name(raw_lock(way, fd, "ex")))
        peer.wait_for("close")


# The unlock stands in line before the cancel, so that EX is granted before that.
@pytest.mark.parametrize("way", FCNTL_WAYS)
@pytest.mark.parametrize("then, mode", [("wait", "pr"), ("write", "pr"), ("unlock", None), ("change", "ex")])
def test_a_change_that_was_given_up_and_is_granted_is_given_back(lockspace, way, then, mode):
    put(lockspace / ".ex" / "r", b"old")
    with taken("flock", lockspace, "r", "pr") as reader:
        child = wait_until_queued(lockspace, Child(change, way, lockspace / "r", then))
        with stopped("web"):
            unlock("flock", reader)
            child.signal(signal.SIGUSR1)
            child.wait_for("EINTR")
            child.wait_for("on")
    if then == "change":
        child.wait_for(0)
    wait_until(lambda: not waiters(lockspace))
    assert held(lockspace, "r") == ([(mode, by(way))] if mode else [])
    assert is_free(lockspace, "r", "pr") == (mode != "ex")
    assert get(lockspace / "r") == b"old"
    child.say("close")
    child.join()
    assert is_free(lockspace, "r")


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_a_change_that_was_given_up_and_is_granted_goes_with_its_file(lockspace, way):
    with taken("flock", lockspace, "r", "pr") as reader:
        child = wait_until_queued(lockspace, Child(change, way, lockspace / "r", "wait"))
        with stopped("web"):
            unlock("flock", reader)
            child.kill()
    with taken("flock", lockspace, "r", wait=True):
        assert held(lockspace, "r") == [("ex", "flock")]
