"""-o engine=dlm where something is missing: lockspacefs says what, says what to do, and does not run.

Least of all on the local engine: a lock that is silently local corrupts data.
"""

import shlex

import pytest

import tools
from cluster import Cluster, wait_until

SOON = 30


@pytest.fixture(scope="module")
def bare():
    """A node with the packaged kernel, whose modules can be taken out, and no cluster."""
    with Cluster(1, cluster="none") as cluster:
        yield cluster.node(1)


@pytest.fixture(scope="module")
def with_corosync(debugfs_kernel):
    with Cluster(1, cluster="corosync", kernel=debugfs_kernel) as cluster:
        yield cluster.node(1)


def refusal(node, options="", user=None):
    """What it says when it is to mount and does not."""
    words = [str(tools.daemon()), "-o", ",".join(filter(None, ["engine=dlm", options])), "/tmp/mnt"]
    done = node.run(f"mkdir -p /tmp/mnt; {shlex.join(words)}", SOON, user=user)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("lockspacefs: ") and done.stderr.count("\n") == 1, done.stderr
    assert node.run("mountpoint -q /tmp/mnt").returncode != 0
    assert node.run("pgrep -x lockspacefs").stdout == ""
    return done.stderr


def test_no_module(bare):
    bare.run("rmmod dlm", check=True)
    try:
        message = refusal(bare)
        assert "module" in message and "modprobe dlm" in message
        assert refusal(bare).count("corosync") == message.count("corosync")     # it is the same each time
    finally:
        bare.run("insmod /usr/lib/uml/modules/$(uname -r)/kernel/fs/dlm/dlm.ko", check=True)


def test_dlm_is_the_default_engine_and_does_not_fall_back(bare):
    done = bare.run(f"mkdir -p /tmp/mnt; {tools.daemon()} /tmp/mnt", SOON)
    assert done.returncode != 0 and "corosync" in done.stderr
    assert bare.run("mountpoint -q /tmp/mnt").returncode != 0


def test_no_control_device(bare):
    bare.run("mv /dev/dlm-control /tmp/control", check=True)
    try:
        assert "/dev/dlm-control" in refusal(bare)
    finally:
        bare.run("mv /tmp/control /dev/dlm-control", check=True)


def test_no_link_by_udev(bare):
    bare.run("mv /dev/misc /tmp/misc", check=True)
    try:
        message = refusal(bare)
        assert "/dev/misc/dlm-control" in message and "udev" in message
    finally:
        bare.run("mv /tmp/misc /dev/misc", check=True)


def test_no_corosync(bare):
    message = refusal(bare)
    assert "corosync is not running" in message and "start" in message


def test_no_dlm_controld(with_corosync):
    message = refusal(with_corosync)
    assert "dlm_controld is not running" in message and "start" in message


def test_no_dlm_controld_any_more(two_nodes):
    node = two_nodes.node(1)
    node.run("kill $(pidof dlm_controld); while pidof dlm_controld; do sleep 0.05; done", check=True)
    assert "dlm_controld is not running" in refusal(node)
    node.crash()


def test_no_quorum(three_nodes):
    node = three_nodes.node(1)
    for number in (2, 3):
        three_nodes.node(number).crash()
    wait_until(lambda: not node.is_quorate(), SOON, "node 1 notices")
    message = refusal(node)
    assert "no quorum" in message and "more nodes" in message


def test_not_root(two_nodes):
    message = refusal(two_nodes.node(1), user=12345)
    assert "CAP_SYS_ADMIN" in message and "root" in message


@pytest.mark.parametrize("flags, word", [("nonsense", "nonsense"), ("fs:nonsense", "nonsense"), ("64", "64"), ("nodir", "nodir")])
def test_creation_flags_that_cannot_be_had(two_nodes, flags, word):
    """The kernel would take every bit."""
    message = refusal(two_nodes.node(1), f"lockspace_flags={flags}")
    assert "lockspace_flags" in message and word in message


@pytest.mark.parametrize("flags", ["newexcl", "fs:newexcl"])
def test_creation_flags_that_can(two_nodes, flags):
    for node in two_nodes.nodes:
        daemon = node.mount_lockspacefs(f"lockspace_flags={flags}")
        node.run("mkdir /dlm/web", check=True)
        assert node.run("mkdir /dlm/web").returncode == 1
        assert daemon.unmount() == 0
