"""Failing calls to the kernel's DLM: each gets a fitting errno, and nothing is lost."""

import errno
import os
import signal
import time

import pytest

from inject import FITTING, Life, check_nothing_is_lost, locks_of_the_kernel, sweep_lockspaces, sweep_locks
from lockspacefs_test import (Child, errno_of, get, make_lockspace, opened, put, raises_errno, touch, trouble_in,
                              wait_until)
from locking import dlm_tool, errno_name, is_free, locks, taken, wait_for_a_signal, wait_until_queued


@pytest.fixture
def mount(make_daemon, injector):
    return make_daemon("wait=60", environment=injector.environment).mountpoint


def test_each_request_for_a_lock_fails_once(mount, engine, injector):
    """The kernel has no memory for it."""
    def arm(skip):
        injector.fail("write", errno.ENOMEM, skip=skip, path="/dev/dlm_")
    assert sweep_locks(mount, engine, arm, injector) >= 10


def test_each_request_for_a_lockspace_fails_once(mount, engine, injector):
    def arm(skip):
        injector.fail("write", errno.ENOMEM, skip=skip, path="/dev/")
    assert sweep_lockspaces(mount, engine, arm, injector) >= 5


def test_what_is_to_be_repeated_is(mount, engine, injector):
    """Requests that were interrupted, and results that come late."""
    make_lockspace(mount)
    for kind, error in [("write", errno.EINTR), ("write", errno.EAGAIN), ("read", errno.EINTR), ("read", errno.ENOMEM)]:
        injector.fail(kind, error, count=1000, every=2, path="/dev/dlm_")
        life = Life(mount).live()
        assert injector.stop() >= 10
        assert {**life.errors, "wait": 0} == dict.fromkeys(life.errors, 0)
        check_nothing_is_lost(life, engine)


# At a rmdir the requests are: read the value, let go of its keeper, release. When that fails, back: take EX,
# and write the value with a step down to NL.
def test_a_rmdir_that_fails_keeps_the_values(mount, injector):
    lockspace = make_lockspace(mount)
    with opened(lockspace / ".ex/rev") as fd:
        os.write(fd, b"42")
    for which in [{"skip": 0, "count": 3, "every": 2}, {"skip": 2}, {"skip": 2, "count": 2}, {"skip": 2, "count": 4}]:
        wait_until(lambda: [modes for _, modes in locks_of_the_kernel(lockspace)] == [(0, -1)], what="the keeper alone")
        injector.fail("write", errno.ENOMEM, path="/dev/", **which)
        with raises_errno(errno.ENOMEM):
            lockspace.rmdir()
        assert injector.stop() >= 1
        assert get(lockspace / "rev") == b"42", which
    lockspace.rmdir()


def test_a_rmdir_by_force_that_fails_is_tried_again(mount, injector):
    """Until then its locks are the kernel's, and their numbers are not given to others."""
    lockspace, other = (make_lockspace(mount, name) for name in ("web", "other"))
    (lockspace / ".force").write_text("1")
    with opened(lockspace / ".ex/job"):
        injector.fail("write", errno.ENOMEM, count=3, path="/dev/")
        lockspace.rmdir()
        assert injector.stop() == 3
        with opened(other / ".ex/job"), opened(other / ".ex/another"):
            assert len(locks(other)) == 2
    make_lockspace(mount)


def test_a_rmdir_without_memory_of_our_own_keeps_the_values(make_daemon, injector):
    environment = {**injector.environment, "G_DEBUG": "fatal-warnings,gc-friendly"}
    lockspace = make_lockspace(make_daemon("wait=60", environment=environment).mountpoint)
    for skip in range(100):
        for resource in ["one", "two"]:
            with opened(lockspace / ".ex" / resource) as fd:
                os.write(fd, resource.encode())
        injector.fail("malloc", errno.ENOMEM, skip=skip, path="lockspacefs")
        number = errno_of(lockspace.rmdir)
        if not injector.stop():
            break
        assert number in (0, errno.ENOMEM)
        if number == 0:
            make_lockspace(lockspace.parent)
        else:
            assert (get(lockspace / "one"), get(lockspace / "two")) == (b"one", b"two"), f"call {skip}"
    assert skip >= 8 and number == 0


# --- what is owed for want of memory ---------------------------------------

def rests(daemon):
    before = daemon.cpu_time
    time.sleep(0.2)                             # it is time that is measured
    return daemon.cpu_time == before


def test_who_owes_nothing_any_more_sleeps(make_daemon, injector):
    """A cancel has no memory, and before it gets some its lock has gone with the lockspace."""
    daemon = make_daemon(environment={**injector.environment, "G_DEBUG": "fatal-warnings,gc-friendly"})
    lockspace = make_lockspace(daemon.mountpoint)
    with taken("flock", lockspace, "r"):
        waiter = wait_until_queued(lockspace, Child(wait_for_a_signal, lockspace / "r"))
        injector.fail("malloc", errno.ENOMEM, count=1000000, path="lockspacefs")
        waiter.signal(signal.SIGUSR1)
        assert waiter.join() == errno.EINTR
        wait_until(lambda: injector.injected >= 5, what="the cancel tried again")
        # Takes until the daemon has seen it, and closed the device.
        dlm_tool("leave", lockspace.name)
        injector.stop()
    wait_until(lambda: rests(daemon), what="the daemon's sleep")


# --- results that do not come ----------------------------------------------

@pytest.mark.parametrize("length", [8, 60])
def test_each_result_is_cut_once(make_daemon, engine, injector, length):
    """What it would have said is lost for good: EIO, and the locks go back. A value then has nobody to keep it."""
    daemon = make_daemon("wait=60", environment={**injector.environment, "G_DEBUG": ""})
    daemon.excused = True                       # it says so
    fitting = {name: errors | {errno.EIO} for name, errors in FITTING.items()}

    def arm(skip):
        injector.cut(length, skip=skip, path="/dev/dlm_")
    assert sweep_locks(daemon.mountpoint, engine, arm, injector, fitting, most=20, has_value=False) > 5
    daemon.stop()
    assert all("cannot keep the value of a resource" in line for line in trouble_in(daemon.log)), daemon.log


# --- what else there may be too little of ----------------------------------

def test_each_of_these_fails_once(mount, engine, injector):
    for kind, error in [("eventfd", errno.EMFILE), ("epoll_create", errno.ENFILE), ("epoll_ctl", errno.ENOMEM),
                        ("pthread_create", errno.EAGAIN), ("close_range", errno.ENOMEM), ("open", errno.ENFILE)]:
        def arm(skip):
            injector.fail(kind, error, skip=skip, path="/dev/" if kind == "open" else "")
        assert sweep_lockspaces(mount, engine, arm, injector) >= 1, kind


def test_a_thread_without_a_table_of_its_own_closes_nothing(mount, injector):
    lockspace, other = (make_lockspace(mount, name) for name in ("web", "other"))
    with opened(other / ".ex/job"):
        injector.fail("close_range", errno.ENOMEM)
        with raises_errno(errno.ENOMEM):
            get(lockspace / ".pr/job")
        assert injector.stop() == 1
        assert [row["resource"] for row in locks(other)] == ["job"]
        assert not is_free(other, "job")
        assert is_free(lockspace, "job")


# A release under an opener lets two nodes hold EX.
def test_an_opener_who_cannot_be_looked_for_counts(mount, injector):
    lockspace = make_lockspace(mount)
    with opened(f"/dev/dlm_{lockspace.name}"):
        for path in ["/proc", f"{os.getpid()}/task", f"{os.getpid()}/fd"]:
            injector.fail("open", errno.ENFILE, path=path)
            with raises_errno(errno.ENOMEM):
                lockspace.rmdir()
            assert injector.stop() == 1
        with raises_errno(errno.EBUSY):
            lockspace.rmdir()
    lockspace.rmdir()


def test_a_release_that_fails_leaves_a_lost_value_lost(mount, make_daemon, injector):
    """Nor does another mount ever see what it was."""
    def read_on(peer):
        found = set()
        while not peer.has_said():
            try:
                found.add(get(third / "v"))
            except OSError as error:
                found.add(errno_name(error.errno))
        peer.wait_for("enough")
        return found

    lockspace = make_lockspace(mount)
    put(lockspace / ".ex/v", b"old")
    other = make_daemon()
    other.excused = True
    fd = os.open(other.mountpoint / "web/.ex/v", os.O_RDWR)
    other.signal(signal.SIGKILL)
    other.wait()
    with raises_errno(errno.ENOTCONN, errno.ECONNABORTED):
        os.pread(fd, 32, 0)
    os.close(fd)
    with raises_errno(errno.EIO):
        get(lockspace / ".pr/v")
    third = make_daemon().mountpoint / "web"
    touch(third / "v")
    injector.fail("write", errno.EBUSY, count=1000, path="/dev/dlm-control")
    remover = Child(lambda peer: errno_of(lockspace.rmdir))
    wait_until(lambda: injector.injected > 1)   # it is tried again …
    reader = Child(read_on)                     # … and not refused for this one, who has the device open
    assert remover.join() == errno.EBUSY
    injector.stop()
    with raises_errno(errno.EIO):
        get(lockspace / ".pr/v")
    reader.say("enough")
    assert b"old" not in reader.join()
    put(lockspace / ".ex/v", b"new")
    assert get(lockspace / ".pr/v") == b"new"


def test_a_list_of_locks_that_cannot_be_read(mount, injector):
    """ENOENT, and ESTALE for the caller, would say that the lockspace is gone."""
    lockspace = make_lockspace(mount)
    injector.fail("open", errno.ENFILE, path="/sys/kernel/debug")
    with raises_errno(errno.ENOMEM):
        get(lockspace / ".locks")
    assert injector.stop() == 1
    assert locks(lockspace) == []
