"""Clusters for the tests: whole at the beginning of each, and gone in the end, however that comes.

one_node, two_nodes and three_nodes are started once a module. Where a machine cannot boot guests the tests
fail: a cluster file system that was never tried on a cluster is not tested.
"""

import itertools

import pytest

import tools
from actors import leave_nothing, make, mounted
from cluster import Cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def debugfs_kernel():
    """The guest kernel with debugfs; built now, which takes minutes, if it never was."""
    return str(tools.guest_kernel("debugfs", build=True))


def _module_cluster(size: int):
    @pytest.fixture(scope="module", name=f"cluster_of_{size}")
    def cluster(debugfs_kernel):
        with Cluster(size, kernel=debugfs_kernel) as running:
            yield running
    return cluster


cluster_of_1 = _module_cluster(1)
cluster_of_2 = _module_cluster(2)
cluster_of_3 = _module_cluster(3)


@pytest.fixture
def one_node(cluster_of_1):
    cluster_of_1.repair()
    return cluster_of_1


@pytest.fixture
def two_nodes(cluster_of_2):
    cluster_of_2.repair()
    return cluster_of_2


@pytest.fixture
def sites(two_nodes):
    """lockspacefs on two nodes, and the lockspace web in both."""
    with mounted(two_nodes.nodes) as both:
        make(both, "web")
        yield both
        for site in both:
            site.clear()
    leave_nothing(two_nodes.nodes)


@pytest.fixture
def three_nodes(cluster_of_3):
    cluster_of_3.repair()
    return cluster_of_3


@pytest.fixture
def lockspace_name():
    """One that no test of this run has used, so that nothing hangs on what another one left."""
    return f"test{next(_numbers)}"
