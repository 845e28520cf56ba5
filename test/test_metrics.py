"""The counts of `.metrics`, read by parsers of the format."""

import errno
import fcntl
import os
import re
import signal
import stat
import time

import pytest
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as openmetrics

from locking import WAYS, is_free, lock, raw_lock, raw_take, taken, wait_until_queued
from lockspacefs_test import (NOBODY, Child, get, make_lockspace, opened, raises_errno, shell, status, touch, wait_for_waiters,
                              wait_until)


def wait_for_lock(peer, way, path):
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    peer.say(raw_take(way, path.parent, path.name, "ex"))


def waiter(way, path):
    """A process that waits for the lock, seen in the queue."""
    return wait_until_queued(path.parent, Child(wait_for_lock, way, path))


def metrics(mount, families=openmetrics.text_string_to_metric_families):
    """Samples of .metrics by name and lockspace, read by the parser of the format."""
    samples = {}
    for family in families(get(mount / ".metrics").decode()):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "lockspace"}
            key = (sample.name.removeprefix("lockspacefs_"), sample.labels.get("lockspace"), *sorted(labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def counts(mount, lockspace="web"):
    """grants, waits, refusals, deadlocks, cancels"""
    samples = metrics(mount)
    return tuple(samples[f"{name}_total", lockspace] for name in ["grants", "waits", "refusals", "deadlocks", "cancels"])


def test_metrics_are_found_and_not_listed(mount):
    assert os.listdir(mount) == []
    st = (mount / ".metrics").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_size, stat.S_ISREG(st.st_mode)) == (0o444, 0, True)
    for call in [lambda: os.open(mount / ".metrics", os.O_WRONLY), lambda: os.truncate(mount / ".metrics", 0)]:
        with raises_errno(errno.EACCES):
            call()
    for call in [lambda: os.unlink(mount / ".metrics"), lambda: os.chmod(mount / ".metrics", 0o600)]:
        with raises_errno(errno.EPERM):
            call()
    assert Child(lambda peer: get(mount / ".metrics"), uid=NOBODY).join().endswith(b"# EOF\n")
    assert shell("cat .metrics | tail -n 1", cwd=mount).stdout == "# EOF\n"


def test_metrics_of_the_mount(mount, engine, lockspace):
    seen = metrics(mount)
    said = status(mount)
    assert seen["mount_info", None, ("engine", engine), ("node", str(said["node"])), ("version", said["version"])] == 1
    assert abs(seen["start_time_seconds", None] + said["seconds"] - time.time()) < 60
    assert 0 < seen["requests_total", None] <= said["requests"]
    assert seen["lockspaces", None] == 1
    cluster = {name: seen.get((name, None)) for name in ["cluster_controlled", "cluster_members", "cluster_quorate"]}
    assert set(cluster.values()) == ({None} if engine == "local" else {1})


def test_metrics_of_a_lockspace(mount, lockspace):
    make_lockspace(mount, "other")
    touch(lockspace / "listed")
    with taken("flock", lockspace, "deploy"):
        child = waiter("flock", lockspace / "deploy")
        seen = metrics(mount)
        assert [seen[name, "web"] for name in ["lockspace_active", "files", "locks_held", "locks_waiting"]] == [1, 2, 1, 1]
        assert [seen[name, "other"] for name in ["lockspace_active", "files", "locks_held", "locks_waiting"]] == [1, 0, 0, 0]
        child.kill()
    wait_until(lambda: metrics(mount)["locks_held", "web"] == 0)
    (mount / "other").rmdir()
    assert ("files", "other") not in metrics(mount)


@pytest.mark.parametrize("way", WAYS)
def test_each_request_is_counted(mount, lockspace, way):
    assert counts(mount) == (0, 0, 0, 0, 0)
    with taken(way, lockspace, "deploy"):
        grants, waits, *others = counts(mount)
        assert (grants, others) == (1, [0, 0, 0])       # where the machine is busy it may have been a wait
        assert not Child(lambda peer: is_free(lockspace, "deploy", way=way)).join()
        assert counts(mount) == (1, waits, 1, 0, 0)
        child = waiter(way, lockspace / "deploy")
        time.sleep(0.01)                                # longer than what counts as a wait
        child.signal(signal.SIGUSR1)
        assert child.wait_for() == errno.EINTR
        assert counts(mount) == (1, waits + 1, 1, 0, 1)
        child = waiter(way, lockspace / "deploy")
        time.sleep(0.01)
    assert child.wait_for() == 0
    assert counts(mount) == (2, waits + 2, 1, 0, 1)


def test_a_dead_lock_is_counted(mount, lockspace):
    for name in ["a", "b"]:
        touch(lockspace / name)

    def first(peer):
        with opened(lockspace / "a") as a, opened(lockspace / "b") as b:
            lock("posix", a)
            peer.say("has a")
            peer.wait_for("b is taken")
            return raw_lock("posix", b)
    child = Child(first)
    child.wait_for("has a")
    with opened(lockspace / "a") as a, opened(lockspace / "b") as b:
        lock("posix", b)
        child.say("b is taken")
        wait_for_waiters(lockspace)
        assert raw_lock("posix", a) == errno.EDEADLK
        assert counts(mount)[3] == 1
    assert child.join() == 0
    assert counts(mount)[3] == 1


def test_waiting_times(mount, lockspace):
    """As long as the wait took, within what the test can know."""
    before = metrics(mount)["wait_seconds_count", "web"]
    with taken("flock", lockspace, "deploy"):
        asked = time.monotonic()
        child = waiter("flock", lockspace / "deploy")
        queued = time.monotonic()
        time.sleep(0.6)                                 # beyond the bound of 0.5
        released = time.monotonic()
    assert child.wait_for() == 0
    granted = time.monotonic()
    seen = metrics(mount)
    assert seen["wait_seconds_count", "web"] == before + 1
    if before == 0:
        assert released - queued <= seen["wait_seconds_sum", "web"] <= granted - asked
    buckets = [(float(key[2][1]), value) for key, value in seen.items() if key[:2] == ("wait_seconds_bucket", "web")]
    assert len(buckets) == 13 and buckets[-1] == (float("inf"), before + 1)
    assert [bound for bound, _ in buckets] == sorted(bound for bound, _ in buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert dict(buckets)[0.5] == before and (granted - asked > 3600 or dict(buckets)[3600.0] == before + 1)


def test_tries_and_changes_are_no_waits(mount, lockspace):
    with opened(lockspace / "deploy", os.O_RDWR | os.O_CREAT) as fd:
        for operation in [fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_EX]:
            fcntl.flock(fd, operation | fcntl.LOCK_NB if operation != fcntl.LOCK_UN else operation)
    assert counts(mount) == (4, 0, 0, 0, 0)


def test_readers_of_the_older_format_take_it(mount, lockspace):
    """node_exporter's textfile collector among them: it knows no type that is new in OpenMetrics."""
    types = set(re.findall(r"^# TYPE \S+ (\S+)$", get(mount / ".metrics").decode(), re.M))
    assert types == {"gauge", "counter", "histogram"}
    old = metrics(mount, prometheus.text_string_to_metric_families)
    new = metrics(mount)
    assert set(old) == set(new)


def test_metrics_read_byte_by_byte(mount, lockspace):
    text = shell("dd if=.metrics bs=1 status=none", cwd=mount).stdout
    assert text.endswith("# EOF\n") and len(list(openmetrics.text_string_to_metric_families(text))) > 10
