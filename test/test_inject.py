"""Failing calls under a mount, whatever the engine: nobody notices, or one caller. Those of the DLM: test_inject_dlm.py."""

import errno
import fcntl
import os

import pytest

from inject import FITTING_OWN, Life, check_nothing_is_lost, sweep_lockspaces, sweep_locks
from locking import lock, locks, take, unlock
from lockspacefs_test import errno_of, get, make_lockspace, opened, put


@pytest.mark.parametrize("which", [("read", errno.EINTR, "/dev/fuse"), ("read", errno.EAGAIN, "/dev/fuse"), ("read", errno.ENOMEM, "/dev/fuse"),
                                   ("open", errno.ENFILE, "/proc/")], ids=str)
def test_nobody_notices(make_daemon, engine, injector, which):
    """The daemon asks again, or goes without."""
    kind, error, path = which
    mount = make_daemon("wait=60", environment=injector.environment).mountpoint
    make_lockspace(mount)
    injector.fail(kind, error, count=100000, every=2, path=path)
    life = Life(mount).live()
    assert injector.stop() >= 1
    assert {**life.errors, "wait": 0} == dict.fromkeys(life.errors, 0)
    check_nothing_is_lost(life, engine)


# --- memory of the daemon's own --------------------------------------------

MINE = "lockspacefs"                            # the program: what GLib asks for is another matter


@pytest.fixture
def mount(make_daemon, injector):
    """Of a daemon that keeps nothing for the next request."""
    return make_daemon("wait=60", environment={**injector.environment, "G_DEBUG": "fatal-warnings,gc-friendly"}).mountpoint


def test_each_allocation_for_locks_fails_once(mount, engine, injector):
    def arm(skip):
        injector.fail("malloc", errno.ENOMEM, skip=skip, path=MINE)
    assert sweep_locks(mount, engine, arm, injector, FITTING_OWN) >= 30


def test_each_allocation_for_lockspaces_fails_once(mount, engine, injector):
    def arm(skip):
        injector.fail("malloc", errno.ENOMEM, skip=skip, path=MINE)
    live = Life.live if engine == "local" else lambda life: None    # on dlm each mkdir and rmdir takes its time
    assert sweep_lockspaces(mount, engine, arm, injector, FITTING_OWN, live=live) >= 8


@pytest.mark.parametrize("every", [2, 3, 5, 7])
def test_many_allocations_fail(mount, engine, injector, every):
    make_lockspace(mount)
    for skip in range(every):
        injector.fail("malloc", errno.ENOMEM, skip=skip, count=100000, every=every, path=MINE)
        life = Life(mount).live()
        assert injector.stop() >= 1
        for name, number in life.errors.items():
            assert number == 0 or number in FITTING_OWN[name], name
        check_nothing_is_lost(life, engine)


def test_giving_back_needs_no_memory(mount, engine, injector):
    """Unlock, step down, leave and close while there is none at all; then all is free, and the value there."""
    lockspace = make_lockspace(mount)
    life = Life(mount)
    with opened(lockspace / "job", os.O_RDWR | os.O_CREAT) as fd, opened(lockspace / "other", os.O_RDWR | os.O_CREAT) as other:
        ex = take("open", lockspace, "rev")
        lock("flock", fd)
        os.write(fd, b"one")
        lock("posix", other)
        injector.fail("malloc", errno.ENOMEM, count=100000, path=MINE)
        unlock("flock", fd)
        unlock("posix", other)
        os.close(ex)
        with pytest.raises(OSError) as error:
            fcntl.flock(fd, fcntl.LOCK_EX)
        assert error.value.errno == errno.ENOLCK
    assert injector.stop() >= 1
    assert get(lockspace / "job") == b"one"
    assert locks(lockspace) == []
    life.value = b"one"
    check_nothing_is_lost(life, engine)


def test_a_release_that_fails_puts_back_each_value(mount, injector):
    """What fails first may be what can be tried again: the engine dlm reports to the loop from another thread."""
    values = {f"rev-{i}": b"%d" % i for i in range(20)}
    for skip in range(10, 30):
        lockspace = make_lockspace(mount)
        for name, value in values.items():
            put(lockspace / ".ex" / name, value)
        injector.fail("malloc", errno.ENOMEM, skip=skip, path=MINE)
        number = errno_of(lockspace.rmdir)
        assert injector.stop() == 1
        if number:
            break
    assert number == errno.ENOMEM
    assert {name: get(lockspace / ".pr" / name) for name in values} == values
    lockspace.rmdir()
