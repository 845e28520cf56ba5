"""What `lockspacefs status` and `.metrics` say of a cluster, and of one that is not well."""

import json
import shlex

import pytest

import tools
from actors import make, mounted, stopped
from cluster import LabTimeout, wait_until

SOON = 30                                       # seconds in which something without a bound of its own must come
HEALTHY, DEGRADED = 0, 1


def run_status(site, *arguments):
    return site.node.run(f"{shlex.quote(str(tools.daemon()))} status {shlex.join(arguments)}")


def look(site):
    """The exit status, and what --json says of the one mount of a node."""
    done = run_status(site, "--json")
    (seen,) = json.loads(done.stdout)["mounts"]
    return done.returncode, seen


def wait_for_health(site, code, problems):
    """Until status exits with that, and says just this; what it says."""
    last = None

    def expected():
        nonlocal last
        last = look(site)
        return (last[0], last[1]["problems"]) == (code, problems)
    try:
        wait_until(expected, SOON, f"node {site.node.number} says {problems or 'healthy'}")
    except LabTimeout as error:
        raise AssertionError(f"last seen: {last}") from error
    return last[1]


def metric(site, name, lockspace=None):
    """A sample of .metrics; None: not there."""
    label = f'{{lockspace="{lockspace}"}}' if lockspace else ""
    for line in site.node.run("cat /dlm/.metrics", check=True).stdout.splitlines():
        if line.startswith(f"lockspacefs_{name}{label} "):
            return float(line.split()[-1])
    return None


@pytest.fixture
def three_sites(three_nodes):
    with mounted(three_nodes.nodes) as sites:
        make(sites, "web", "other")
        yield sites


def test_members_and_locks_of_all_nodes(three_sites):
    one, two, three = three_sites
    for site in three_sites:
        seen = wait_for_health(site, HEALTHY, [])
        assert (seen["node"], seen["members"], seen["quorum"], seen["control"]) == (site.node.number, [1, 2, 3], True, True)
        assert (metric(site, "cluster_members"), metric(site, "cluster_quorate"), metric(site, "cluster_controlled")) == (3, 1, 1)
    one.holder("flock", "deploy")
    two.waiter("posix", "deploy")
    three.waiter("open", "deploy")
    one.wait_for("len(waiters(web)) == 2")      # the other nodes' requests are under way
    seen = {(lock["state"], lock["mode"] or lock["wanted"], lock["node"], lock["by"])
            for lockspace in look(one)[1]["lockspaces"] if lockspace["name"] == "web" for lock in lockspace["locks"]}
    assert seen == {("held", "EX", 1, "flock"), ("waiting", "EX", 2, "other"), ("waiting", "EX", 3, "other")}
    assert "web/deploy" in run_status(one).stdout
    for site in three_sites:
        site.clear()


def test_a_stopped_lockspace_is_degraded_and_the_others_are_not(three_sites):
    one = three_sites[0]
    with stopped(three_sites, "web"):
        code, seen = look(one)
        assert (code, seen["health"], seen["problems"]) == (DEGRADED, "degraded", ["lockspace web is stopped"])
        assert {lockspace["name"]: lockspace["state"] for lockspace in seen["lockspaces"]} == {"other": "active", "web": "stopped"}
        assert (metric(one, "lockspace_active", "web"), metric(one, "lockspace_active", "other")) == (0, 1)
        assert run_status(one, "-q").stdout == "/dlm: degraded: lockspace web is stopped\n"
    wait_for_health(one, HEALTHY, [])


def test_without_quorum_it_is_degraded_until_the_others_are_back(three_nodes):
    with mounted(three_nodes.nodes) as sites:
        one, two, three = sites
        make(sites, "web")
        three.node.crash()
        wait_until(lambda: look(one)[1]["members"] == [1, 2], SOON, "node 3 is gone")
        assert wait_for_health(one, HEALTHY, [])["quorum"] is True
        two.node.crash()
        seen = wait_for_health(one, DEGRADED, ["the cluster has no quorum", "lockspace web is stopped"])
        assert (seen["members"], seen["quorum"], seen["control"]) == ([1], False, True)
        assert (metric(one, "cluster_members"), metric(one, "cluster_quorate")) == (1, 0)
        for site in (two, three):
            site.node.boot(members=3)
        for site in (two, three):
            site.node.wait_ready()
        assert wait_for_health(one, HEALTHY, [])["members"] == [1, 2, 3]


def test_when_the_programs_of_the_cluster_are_gone(one_node):
    """First dlm_controld, whereupon the kernel stops all lockspaces; then corosync."""
    with mounted(one_node.nodes) as (one,):
        make([one], "web")
        one.node.run("pkill -KILL -x dlm_controld", check=True)
        seen = wait_for_health(one, DEGRADED, ["dlm_controld does not run", "lockspace web is stopped"])
        assert (seen["members"], seen["quorum"], seen["control"]) == ([1], True, False)
        one.node.run("pkill -KILL -x corosync", check=True)
        seen = wait_for_health(one, DEGRADED, ["corosync does not answer", "dlm_controld does not run", "lockspace web is stopped"])
        assert (seen["members"], seen["quorum"]) == (None, None)
        assert metric(one, "cluster_members") is None and metric(one, "cluster_controlled") == 0
        one.node.crash()                        # nothing there could release the lockspace
