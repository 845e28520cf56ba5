"""What is given up or ended while a lockspace of the DLM is stopped or a release hangs, and what comes of it when that goes on."""

import contextlib
import ctypes
import errno
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from locking import (FCNTL_WAYS, by, errno_name, getlk, held, is_free, lock, raw_lock, start_waiter, stopped,
                     take, taken, unlock, wait_until_queued)
from lockspacefs_test import (Child, errno_of, get, make_lockspace, opened, process_state, processes_with, put, raises_errno,
                              touch, wait_for_exit, wait_until, waiters)


def hangs_in(child, call):
    return f"fuse_{call}" in Path(f"/proc/{child.pid}/stack").read_text(encoding="ascii")


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
        if then in ("change", "try"):
            peer.say(errno_name(raw_lock(way, fd, "ex", wait=then == "change")))
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


def test_a_change_that_was_given_up_closes_no_circle(lockspace):
    """Whoever was interrupted waits for nobody there any more."""
    def go_elsewhere(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        with opened(lockspace / "r") as fd, opened(lockspace / "elsewhere") as other:
            lock("posix", fd, "pr")
            peer.say(errno_name(raw_lock("posix", fd, "ex")))
            lock("posix", other, "ex")

    def come_from_there(peer):
        with opened(lockspace / "r") as fd, taken("posix", lockspace, "elsewhere"):
            peer.say("has it")
            peer.wait_for("ask")
            peer.say(errno_name(raw_lock("posix", fd, "pr")))

    touch(lockspace / "elsewhere")
    with taken("flock", lockspace, "r", "pr"):
        interrupted = wait_until_queued(lockspace, Child(go_elsewhere))
        asker = Child(come_from_there)
        asker.wait_for("has it")
        with stopped("web"):
            interrupted.signal(signal.SIGUSR1)
            interrupted.wait_for("EINTR")
            wait_until(lambda: waiters(lockspace, "elsewhere"))
            asker.say("ask")
            wait_until_queued(lockspace, asker)
        asker.wait_for(0)
        for child in asker, interrupted:
            child.join()


# --- a try, when nobody has the lock any more ------------------------------

def wait_to_change(peer, way, path):
    with opened(path) as fd:
        lock(way, fd, "pr")
        lock(way, fd, "ex")


def start_try(lockspace, way="flock"):
    """Another process; it is under way when this returns."""
    return wait_until_queued(lockspace, Child(lambda peer: is_free(lockspace, "r", way=way)))


@pytest.mark.parametrize("way", ["flock", "posix"])
def test_a_change_that_was_given_up_is_in_nobodys_way(lockspace, way):
    """What it had is unlocked only when the end of the change is known."""
    with taken("flock", lockspace, "r", "pr") as reader:
        child = wait_until_queued(lockspace, Child(wait_to_change, way, lockspace / "r"))
        with stopped("web"):
            child.kill()
            unlock("flock", reader)
            attempt = start_try(lockspace)
        assert attempt.join()


@pytest.mark.parametrize("way", ["posix", "open"])
def test_nor_is_a_lock_that_was_given_up_and_is_granted(lockspace, way):
    with taken("flock", lockspace, "r") as holder:
        child = start_waiter(way, lockspace, "r")
        with stopped("web"):
            unlock("flock", holder)             # stands in line before the cancel
            child.kill()
            attempt = start_try(lockspace, way)
            waiter = start_waiter("flock", lockspace, "r")      # comes after the try, and so does not get before it
        assert attempt.join()
        waiter.wait_for("locked")


@pytest.mark.parametrize("way", ["flock", "posix"])
def test_a_try_can_be_interrupted(lockspace, way):
    def attempt(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        with opened(lockspace / "r") as fd:
            peer.say(errno_name(raw_lock(way, fd, wait=False)))

    with taken("flock", lockspace, "r") as holder:
        waiting = start_waiter(way, lockspace, "r")
        with stopped("web"):
            unlock("flock", holder)
            waiting.kill()
            child = wait_until_queued(lockspace, Child(attempt))
            other = start_try(lockspace)
            child.signal(signal.SIGUSR1)
            child.wait_for("EINTR")
        assert other.join()


def test_who_was_interrupted_is_not_in_his_own_way(lockspace):
    with taken("flock", lockspace, "r", "pr") as reader:
        child = wait_until_queued(lockspace, Child(change, "posix", lockspace / "r", "try"))
        with stopped("web"):
            unlock("flock", reader)
            child.signal(signal.SIGUSR1)
            child.wait_for("EINTR")
            child.wait_for("on")
            wait_until(lambda: process_state(child.pid) == "S")
        child.wait_for(0)
        assert held(lockspace, "r") == [("ex", "posix")]


def test_who_only_asks_is_in_nobodys_way(lockspace):
    """F_GETLK finds out about other nodes by a lock of its own."""
    def ask(peer, mode):
        with opened(lockspace / "r") as fd:
            peer.say("asks")
            return getlk("posix", fd, mode)[0]

    touch(lockspace / "r")
    with stopped("web"):
        children = [Child(ask, mode) for mode in ("ex", "pr", "ex")]
        for child in children:
            child.wait_for("asks")
            wait_until(lambda: process_state(child.pid) == "S")
        attempt = start_try(lockspace)
    assert [child.join() for child in children] == ["un", "un", "un"]
    assert attempt.join()


# --- fsync ---------------------------------------------------------------

@pytest.mark.parametrize("way", ["flock", "open"])
def test_fsync_again_after_a_signal(lockspace, way):
    """What was interrupted goes on, and the next one waits for its turn."""
    def write(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: peer.say("again"))
        fd = take(way, lockspace, "r")
        os.write(fd, b"new")
        peer.say("wrote")
        peer.wait_for("sync")
        os.fsync(fd)                            # Python tries again after a signal
        peer.say("done")
        peer.wait_for("close")

    writer = Child(write)
    writer.wait_for("wrote")
    with stopped("web"):
        writer.say("sync")
        wait_until(lambda: waiters(lockspace, "r"))
        writer.signal(signal.SIGUSR1)
        writer.wait_for("again")
        wait_until(lambda: hangs_in(writer, "fsync"), what="the second fsync")
    writer.wait_for("done")
    writer.say("close")
    writer.join()
    assert get(lockspace / "r") == b"new"


@pytest.mark.parametrize("call", ["fsync", "read"])
@pytest.mark.parametrize("how", ["a handler with SA_RESTART", "a stop"])
def test_what_waits_for_the_cluster_is_not_begun_again(lockspace, call, how):
    """As flock and fcntl are."""
    def wait(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.siginterrupt(signal.SIGUSR1, False)
        libc = ctypes.CDLL(None, use_errno=True)
        with opened(lockspace / (".ex/r" if call == "fsync" else "r")) as fd:
            if call == "fsync":
                os.write(fd, b"new")
            peer.say("ready")
            peer.wait_for("go")
            result = libc.fsync(fd) if call == "fsync" else libc.read(fd, ctypes.create_string_buffer(32), 32)
            return errno_name(ctypes.get_errno()) if result < 0 else result

    put(lockspace / ".ex" / "r", b"old")
    child = Child(wait)
    child.wait_for("ready")
    with stopped("web"):
        child.say("go")
        wait_until(lambda: hangs_in(child, "simple_request"))
        if how == "a stop":
            child.stop()
            wait_until(lambda: process_state(child.pid) == "T")
            child.resume()
        else:
            child.signal(signal.SIGUSR1)
        wait_until(child.has_said)
    assert child.join() == "EINTR"


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


# The kernel marks as lost what is locked for writing when its device is closed.
def test_what_was_only_locked_for_writing_keeps_its_value(make_daemon):
    lockspace = make_lockspace(make_daemon().mountpoint)
    daemon = make_daemon("wait=60")
    others = daemon.mountpoint / "web"
    wait_until(others.exists)
    modes = {"a": "ex", "b": "pw", "c": "ex"}
    for name in modes:
        put(lockspace / ".ex" / name, b"42")
    with contextlib.ExitStack() as locks:
        for name, mode in modes.items():
            locks.enter_context(taken("open", others, name, mode, wait=True))       # the other mount's unlock may be under way
        with stopped("web"):
            locks.close()                       # the unlocks stand in line behind the first
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: "unmounted" in daemon.log)
            assert not wait_for_exit(daemon.pid, 0.3)
    assert daemon.wait() == 0
    assert [get(lockspace / name) for name in modes] == [b"42"] * 3


def test_what_was_only_asked_about_keeps_its_value(make_daemon):
    lockspace = make_lockspace(make_daemon().mountpoint)
    daemon = make_daemon("wait=60")
    others = daemon.mountpoint / "web"
    wait_until(others.exists)

    def ask(peer):
        with raises_errno(errno.ECONNABORTED, errno.ENOTCONN), opened(others / "r") as fd:
            peer.say("asks")
            getlk("posix", fd, "ex")

    put(lockspace / ".ex" / "r", b"42")
    touch(others / "r")
    wait_until(lambda: is_free(others, "r"))    # the other mount's unlock is under way
    with stopped("web"):
        child = Child(ask)
        child.wait_for("asks")
        wait_until(lambda: process_state(child.pid) == "S")
        subprocess.run(["umount", "-i", "-f", daemon.mountpoint], check=False)
        child.join()
        wait_until(lambda: "unmounted" in daemon.log)
        assert not wait_for_exit(daemon.pid, 0.3)
    assert daemon.wait() == 0
    assert get(lockspace / "r") == b"42"


@contextlib.contextmanager
def release_hangs(lockspace):
    """It is removed by force, but others have it open: the kernel waits for them with all that comes after."""
    put(lockspace / ".force", b"1")
    with opened(f"/dev/dlm_{lockspace.name}"):
        lockspace.rmdir()
        yield


def test_a_release_under_way_does_not_wait_for_one_that_hangs(make_daemon):
    """It is busy, as one that is asked for later: nobody knows for how long nobody could use it."""
    daemon = make_daemon("wait=3", environment={"G_DEBUG": ""})
    daemon.excused = True                       # its log says that the rmdir has failed
    web, other = (make_lockspace(daemon.mountpoint, name, 0o750) for name in ("web", "other"))
    before = mode_of("/dev/dlm_other")
    put(other / ".ex" / "rev", b"42")
    with contextlib.ExitStack() as hanging:
        with stopped("other"):                  # the value cannot be read
            with raises_errno(errno.EINPROGRESS):
                other.rmdir()
            hanging.enter_context(release_hangs(web))
        wait_until(lambda: mode_of("/dev/dlm_other") == before, what="the device at its mode")
        assert get(other / "rev") == b"42"
        assert is_free(other, "r")


def test_the_end_waits_for_a_release_that_hangs(make_daemon):
    daemon = make_daemon()
    web, other = (make_lockspace(daemon.mountpoint, name) for name in ("web", "other"))
    with release_hangs(web):
        for call in [(daemon.mountpoint / "new").mkdir, other.rmdir]:
            with raises_errno(errno.EBUSY):
                call()
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: "unmounted" in daemon.log)
        assert not wait_for_exit(daemon.pid, 0.3)
    assert daemon.wait() == 0
    assert "lockspace other is released" in daemon.log
    assert not os.path.exists("/dev/dlm_other")


def test_who_waits_for_a_release_is_told_of_the_end(make_daemon):
    def ask(peer):
        with opened(web / "r") as fd:
            peer.say("has it open")
            peer.wait_for("ask")
            peer.say(errno_name(raw_lock("flock", fd, "ex")))
            peer.say(errno_name(errno_of(lambda: os.pread(fd, 32, 0))))

    daemon = make_daemon("wait=3", environment={"G_DEBUG": ""})
    daemon.excused = True                       # its log says that the rmdir has failed
    web = make_lockspace(daemon.mountpoint)
    put(web / ".ex" / "rev", b"42")
    touch(web / "r")
    asker = Child(ask)
    asker.wait_for("has it open")
    with stopped("web"):                        # the value cannot be read
        with raises_errno(errno.EINPROGRESS):
            web.rmdir()
        asker.say("ask")
        wait_until(lambda: hangs_in(asker, "setlk"))
        daemon.signal(signal.SIGTERM)
        asker.wait_for("ESHUTDOWN")
        asker.wait_for("ESHUTDOWN")             # who asks only now
    asker.join()
    assert daemon.wait() == 0


def test_the_end_goes_on_for_as_long_as_one_after_the_other_is_released(make_daemon):
    daemon = make_daemon("wait=10")
    for name in ["one", "two"]:
        put(make_lockspace(daemon.mountpoint, name) / ".ex" / "rev", b"42")
    with stopped("one"):                        # the value cannot be read
        with stopped("two"):
            daemon.signal(signal.SIGTERM)
            assert not wait_for_exit(daemon.pid, 5.5)
        wait_until(lambda: "lockspace two is released" in daemon.log)
        assert not wait_for_exit(daemon.pid, 5.5)
    assert daemon.wait() == 0
    assert "lockspace one is released" in daemon.log
    assert not os.path.exists("/dev/dlm_one")


def test_the_end_does_not_wait_for_ever(make_daemon):
    daemon = make_daemon("wait=3")
    web, other = (make_lockspace(daemon.mountpoint, name, 0o750) for name in ("web", "other"))
    before = mode_of("/dev/dlm_other")
    with release_hangs(web):
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: "one that was removed by force has not gone yet: 1 lockspaces are left" in daemon.log)
        wait_until(lambda: mode_of("/dev/dlm_other") == before, what="the device at its mode")
    assert daemon.wait() == 0


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
