"""Failing system calls under a mount: nobody notices, whatever the engine. Those of the DLM: test_inject_dlm.py."""

import errno

import pytest

from inject import Life, check_nothing_is_lost
from lockspacefs_test import make_lockspace


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
