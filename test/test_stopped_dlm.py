"""What is given up or ended while a lockspace of the DLM is stopped, and what comes of it when that goes on."""

import contextlib
import errno
import os
import signal
import stat
import subprocess

import pytest

from locking import (FCNTL_WAYS, by, errno_name, held, is_free, raw_lock, stopped, taken, unlock, wait_until_queued)
from lockspacefs_test import Child, get, make_lockspace, opened, processes_with, put, raises_errno, wait_until, waiters


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


# --- the end of the daemon -------------------------------------------------

def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def end(daemon, *steps):
    """A signal for each step; the last one ends its patience."""
    for step in steps:
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: step in daemon.log, what=step)
    daemon.signal(signal.SIGTERM)


# Its release was under way, so that nobody got in.
def test_a_lockspace_that_is_left_behind_can_be_used(make_daemon):
    daemon = make_daemon("-d")
    lockspace = make_lockspace(daemon.mountpoint, "web", 0o750)
    before = mode_of("/dev/dlm_web")
    put(lockspace / ".ex" / "rev", b"42")
    with stopped("web"):                        # the value cannot be read
        end(daemon, "web: seal: Success")
    assert daemon.wait() == 0
    assert mode_of("/dev/dlm_web") == before


@contextlib.contextmanager
def udev_pauses():
    """No lockspace gets its link: who makes one waits for that, for some seconds."""
    pids = [int(pid) for pid in processes_with("systemd-udevd")]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        subprocess.run(["udevadm", "settle", "--timeout=10"], check=True)


def test_so_can_one_whose_release_stood_in_line(make_daemon):
    daemon = make_daemon("-d")
    mount = daemon.mountpoint
    make_lockspace(mount, "web", 0o750)
    before = mode_of("/dev/dlm_web")
    with udev_pauses():
        Child(lambda peer: (mount / "other").mkdir())
        wait_until(lambda: os.path.exists("/dev/dlm_other"))
        end(daemon, "unmounted", "web: seal: Success")          # at the second signal it does not wait for mkdir
        assert daemon.wait() == 0
        assert mode_of("/dev/dlm_web") == before


# --- two mounts ------------------------------------------------------------

def test_a_release_by_another_mount_is_no_chmod(make_daemon):
    one, two = (make_daemon().mountpoint for _ in range(2))
    lockspace = make_lockspace(one, "web", 0o750)
    wait_until(lambda: "web" in os.listdir(two))
    put(lockspace / ".ex" / "rev", b"42")
    with stopped("web"):                        # the value cannot be read
        child = Child(lambda peer: lockspace.rmdir())
        wait_until(lambda: mode_of("/dev/dlm_web") == 0, what="the seal")
        assert mode_of(two / "web") == 0o750
    child.join()
    wait_until(lambda: "web" not in os.listdir(two))
