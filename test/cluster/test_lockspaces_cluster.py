"""Lockspaces of a cluster: made here and there, released under others, kept and taken over by another mount."""

import errno
import select
import signal
import time

import pytest

from actors import leave_nothing, make, mounted
from cluster import Cluster, wait_until

GONE = select.POLLERR | select.POLLHUP
WAYS = ["flock", "posix", "ofd", "open"]
SOON = 30


@pytest.fixture
def sites(two_nodes):
    with mounted(two_nodes.nodes) as both:
        yield both
        for site in both:
            site.clear()
    leave_nothing(two_nodes.nodes)


def rmdir(site, name="web"):
    """The errno with which it ends."""
    return site.errno(f"os.rmdir(dlm / {name!r})")


def force(site, name="web"):
    site.do(f"put(dlm / {name!r} / '.force', b'1')")
    return rmdir(site, name)


def make_again(site, name="web"):
    """EBUSY is said while the old one is still being released."""
    site.wait_for(f"errno_of(os.mkdir, dlm / {name!r}) != errno.EBUSY")
    assert site.do(f"os.path.isdir(dlm / {name!r})")


# --- made by others --------------------------------------------------------

def test_what_dlm_tool_makes_appears_and_goes(sites):
    one, two = sites
    one.node.run("dlm_tool join theirs", check=True)
    one.wait_for("'theirs' in os.listdir(dlm)", SOON)
    assert two.do("os.listdir(dlm)") == []
    assert one.errno("os.mkdir(dlm / 'theirs')") == errno.EEXIST
    two.make("theirs")                          # the same one, on the other node
    holder = one.actor("fd = take('flock', dlm / 'theirs', 'r')")
    assert not two.is_free("r", lockspace="theirs")
    holder.do("os.close(fd)")
    one.node.leave("theirs")
    one.wait_for("'theirs' not in os.listdir(dlm)", SOON)
    one.wait_for("errno_of(os.stat, dlm / 'theirs') == errno.ENOENT", SOON)     # the kernel remembers for a second
    two.wait_free("r", lockspace="theirs")


def test_one_that_is_there_already_is_listed_by_a_mount(two_nodes, lockspace_name):
    node = two_nodes.node(1)
    node.join(lockspace_name)
    with mounted([node]) as (site,):
        assert site.do("os.listdir(dlm)") == [lockspace_name]
        assert site.do(f"is_free(dlm / {lockspace_name!r}, 'r')")
    assert site.lockspaces() == {lockspace_name}                # it was not ours
    node.leave(lockspace_name)


def test_default_works_like_any_other(sites):
    """By the call of libdlm that takes no lockspace."""
    one, two = sites
    two.make("default")
    program = ("import ctypes, sys\n"
               "dlm = ctypes.CDLL('libdlm.so.3')\n"
               "lock = ctypes.c_int()\n"
               "result = dlm.lock_resource(b'r', 5, 0, ctypes.byref(lock))\n"
               "print('locked', result, flush=True)\n"
               "sys.stdin.read()\n")
    one.node.write_file("/tmp/default.py", program)
    job = one.node.popen("exec /usr/bin/python3 /tmp/default.py", stdin=True)
    job.wait_for("locked 0")
    one.wait_for("'default' in os.listdir(dlm)", SOON)
    assert not two.is_free("r", lockspace="default")
    assert not one.is_free("r", lockspace="default")
    assert rmdir(one, "default") == errno.EBUSY
    job.close_stdin()
    assert job.wait().returncode == 0
    for site in (two, one):
        site.wait_free("r", lockspace="default")
    assert rmdir(one, "default") == 0
    assert rmdir(two, "default") == 0


def test_mkdir_excludes_on_one_node_only(sites):
    one, two = sites
    make(sites, "web")
    for site in sites:
        assert site.errno("os.mkdir(web)") == errno.EEXIST
        assert site.lockspaces() == {"web"}


DEVICE = "stat -c '%a %u %g' -L /dev/misc/dlm_web"


def reset_by_udev(site, before):
    """A change event makes udev set the device's mode again. That is undone."""
    site.node.run("udevadm trigger --action=change --name-match=dlm_web && udevadm settle", check=True)
    site.node.run(f"until [ \"$({DEVICE})\" = '{before}' ]; do sleep 0.05; done", SOON, check=True)


def test_mode_and_owner_are_the_devices_too(sites):
    one, two = sites
    one.node.run("umask 027 && mkdir /dlm/web && chown 12345:23456 /dlm/web", check=True)
    assert one.node.run(f"{DEVICE} /dlm/web").stdout == "640 12345 23456\n750 12345 23456\n"
    one.node.run("chmod 2777 /dlm/web", check=True)
    assert one.node.run(DEVICE).stdout == "666 12345 23456\n"
    reset_by_udev(one, "666 12345 23456")


# --- rmdir -----------------------------------------------------------------

def test_rmdir_on_one_node_leaves_the_others(sites):
    one, two = sites
    two.make("web")                             # first, so that it masters what it locks first
    one.make("web")
    two.do("put(web / '.ex' / 'v', b'stays')")
    holder = two.holder("flock")
    waiter = two.waiter("flock")
    assert not one.is_free()
    assert rmdir(one) == 0
    assert one.do("os.listdir(dlm)") == [] and one.lockspaces() == set()
    assert not waiter.is_there()
    assert holder.do("wait_for_poll(fd, select.POLLHUP, 0)") == 0
    assert two.do("get(web / '.pr' / 'v')") == b"stays"
    one.make("web")
    assert not one.is_free()
    assert one.do("get(web / '.pr' / 'v')") == b"stays"
    holder.do("os.close(fd)")
    waiter.result()


def settled(site):
    """Everything of web that a rmdir must not change."""
    return site.do("([(row['resource'], row['state'], row['mode'], row['wanted'], row['pid'], row['by']) for row in locks(web)], "
                   "sorted(os.listdir(web)), get(web / 'v'), "
                   "os.stat('/dev/misc/dlm_web').st_mode, os.stat(web).st_mode)")


def by_a_lock_of_another_process(one, two):
    job = one.program("web", "lock a theirs CR")
    job.wait_for("a granted")
    return job


def by_a_waiter_of_another_process(one, two):
    holder = two.holder("open", "theirs")
    job = one.program("web", "lock a theirs EX")
    job.wait_for("a asked")
    one.wait_for("[row['state'] for row in locks(web) if row['resource'] == 'theirs'] == ['waiting']")
    job.also = holder
    return job


def by_an_idle_opener(one, two):
    job = one.node.popen("exec </dev/misc/dlm_web && echo open && exec sleep 1000")
    job.wait_for("open")
    return job


def by_another_nodes_lock(one, two):
    actor = one.holder("open", "theirs", "nl")                  # so it is mastered here
    job = two.program("web", "lock a theirs PR")
    job.wait_for("a granted")
    actor.do("os.close(fd)")
    one.wait_for("[row['node'] for row in locks(web)] == [2]")
    return job


@pytest.mark.parametrize("use", [by_a_lock_of_another_process, by_a_waiter_of_another_process, by_an_idle_opener,
                                 by_another_nodes_lock])
def test_rmdir_of_one_in_use_says_ebusy_and_loses_nothing(sites, use):
    one, two = sites
    make(sites, "web")
    one.do("put(web / '.ex' / 'v', b'kept')")
    one.do("touch(web / 'listed')")
    user = use(one, two)
    before = settled(one)
    for _ in range(3):
        assert rmdir(one) == errno.EBUSY
        assert settled(one) == before
        assert one.do("get(web / '.pr' / 'v')") == two.do("get(web / '.nl' / 'v')") == b"kept"
        wait_until(lambda: settled(one) == before, SOON, "node 2 has let go")
    assert one.lockspaces() == {"web"}
    holder = one.holder("flock")                # it goes on
    waiter = two.waiter("flock")
    assert rmdir(one) == errno.EBUSY
    assert holder.do("wait_for_poll(fd, select.POLLPRI)") == select.POLLPRI
    assert not waiter.is_there()
    holder.do("os.close(fd)")
    waiter.result()
    waiter.actor.do("os.close(fd)")
    user.kill()
    user.wait()
    if hasattr(user, "also"):
        user.also.do("os.close(fd)")
    assert one.do("get(web / '.pr' / 'v')") == b"kept"
    one.wait_for("errno_of(os.rmdir, web) != errno.EBUSY", SOON)
    assert one.do("os.listdir(dlm)") == []


def test_without_debugfs_the_same_is_busy():
    """Debian's guest kernel has none: whether other nodes' locks are here, the kernel's own EBUSY says."""
    with Cluster(2, kernel="packaged") as cluster, mounted(cluster.nodes) as (one, two):
        make([one, two], "web")
        one.do("put(web / '.ex' / 'v', b'kept')")
        actor = one.holder("open", "theirs", "nl")              # so it is mastered here
        job = two.program("web", "lock a theirs PR")
        job.wait_for("a granted")
        actor.do("os.close(fd)")
        assert not one.is_free("theirs")
        for _ in range(3):
            assert rmdir(one) == errno.EBUSY
            two.wait_for("get(web / '.nl' / 'v') == b'kept'")   # it may read empty for some milliseconds
            assert one.do("get(web / '.pr' / 'v')") == b"kept"
        assert not one.is_free("theirs")
        two.clear()
        opener = by_an_idle_opener(one, two)
        assert rmdir(one) == errno.EBUSY
        opener.kill()
        opener.wait()
        assert [row["by"] for row in one.do("locks(web)")] == []
        one.wait_for("errno_of(os.rmdir, web) != errno.EBUSY", SOON)
        assert one.lockspaces() == set()


@pytest.mark.parametrize("way", WAYS)
def test_our_own_locks_stand_in_the_way_and_are_kept(sites, way):
    one, two = sites
    make(sites, "web")
    holder = one.holder(way)
    waiters = [one.waiter(way), two.waiter(way)]
    assert rmdir(one) == errno.EBUSY
    assert not any(waiter.is_there() for waiter in waiters)
    holder.do("os.close(fd)")
    waiters[0].result()
    assert rmdir(one) == errno.EBUSY
    assert not waiters[1].is_there()
    waiters[0].actor.do("os.close(fd)")
    waiters[1].result()
    two.clear()


# --- rmdir with force ------------------------------------------------------

def test_a_forced_rmdir_tells_who_waits_and_who_holds_here_and_leaves_the_others(sites):
    one, two = sites
    two.make("web")
    one.make("web")
    theirs = two.holder("flock", "theirs")
    holders = {way: one.holder(way, f"r-{way}") for way in WAYS}
    polls = [holder.start("wait_for_poll(fd, select.POLLPRI)") for holder in holders.values()]
    waiters = {way: one.waiter(way, "theirs") for way in WAYS}
    own = {way: one.waiter(way, f"r-{way}") for way in WAYS}
    for poll in polls:
        assert poll.result() & select.POLLPRI
    polls = {way: holder.start("wait_for_poll(fd, 0)") for way, holder in holders.items()}
    far = two.waiter("flock", "r-flock")
    assert force(one) == 0
    for way in WAYS:
        expected = errno.ENOENT if way == "open" else errno.ESTALE
        assert waiters[way].errno() == own[way].errno() == expected, way
        assert polls[way].result() & GONE == GONE
        assert holders[way].errno("os.pread(fd, 1, 0)") == errno.ESTALE
        if way != "open":
            assert holders[way].errno(f"lock({way!r}, fd, 'pr')") == errno.ESTALE
    far.result()                                # what was held here is free for the others
    assert theirs.do("wait_for_poll(fd, select.POLLHUP, 0)") == 0
    assert one.do("os.listdir(dlm)") == []
    make_again(one)
    assert not one.is_free("theirs") and not one.is_free("r-flock")
    theirs.do("os.close(fd)")
    one.wait_free("theirs")


def test_a_forced_rmdir_under_another_opener_answers_and_holds_up_the_rest(sites):
    """Until he closes, no lockspace can be made or released on this node."""
    one, two = sites
    make(sites, "web")
    one.make("other")
    job = one.program("web", "lock a theirs EX")
    job.wait_for("a granted")
    started = time.monotonic()
    assert force(one) == 0
    assert time.monotonic() - started < 5
    assert one.do("os.listdir(dlm)") == ["other"]
    for name in ("web", "new"):
        assert one.errno(f"os.mkdir(dlm / {name!r})") == errno.EBUSY
    assert rmdir(one, "other") == errno.EBUSY
    assert one.is_free("r", lockspace="other")
    two.make("new")                             # elsewhere nothing is held up
    job.kill()
    job.wait()
    make_again(one)
    assert rmdir(one, "other") == 0
    for site in sites:
        site.wait_free("theirs")


def test_an_open_file_without_a_lock_does_not_stand_in_the_way(sites):
    one, two = sites
    one.make("web")
    actor = one.actor("fd = os.open(web / 'r', os.O_RDWR | os.O_CREAT)")
    assert rmdir(one) == 0
    assert actor.errno("lock('flock', fd)") == errno.ESTALE
    one.make("web")
    assert actor.errno("lock('flock', fd)") == errno.ESTALE     # it is another one


# --- the end of a mount ----------------------------------------------------

def end_dlm_controld(node):
    """Its end, which it refuses while there is a lockspace: did it come?"""
    pid = node.run("pgrep -o -x dlm_controld", check=True).stdout.strip()      # not its helper, without which it ends
    node.run(f"kill {pid}", check=True)
    return node.run(f"for i in $(seq 30); do [ -d /proc/{pid} ] || exit 0; sleep 0.1; done; exit 1").returncode == 0


def test_unmounting_releases_what_the_mount_made(two_nodes):
    with mounted(two_nodes.nodes) as (one, two):
        two.node.join("theirs")
        make([one, two], "web", "other")
        one.do("put(web / '.ex' / 'v', b'x')")
        one.end()
        assert one.lockspaces() == set()
        two.wait_free()
        two.wait_for("'theirs' in os.listdir(dlm)")
        two.end()
        assert two.lockspaces() == {"theirs"}
        assert not end_dlm_controld(two.node)
        two.node.leave("theirs")
        assert end_dlm_controld(one.node)       # nothing keeps it, and nobody fences
    for node in two_nodes.nodes:
        node.crash()


def test_unmounting_goes_by_force_if_only_other_nodes_locks_stand_in_the_way(two_nodes):
    with mounted(two_nodes.nodes) as (one, two):
        one.make("web")
        two.make("web")
        first = one.holder("open", "r", "nl")   # masters it
        theirs = two.holder("flock")
        waiter = two.waiter("flock")
        first.do("os.close(fd)")
        one.wait_for("{row['node'] for row in locks(web)} == {2}")
        one.end()
        assert one.lockspaces() == set()
        assert not waiter.is_there()
        assert theirs.do("wait_for_poll(fd, select.POLLHUP, 0)") == 0
        with mounted([one.node]) as (again,):
            again.make("web")
            assert not again.is_free()
            theirs.do("os.close(fd)")
            waiter.result()
            assert not again.is_free()


def test_a_lockspace_that_somebody_else_of_the_node_uses_is_left(two_nodes):
    node = two_nodes.node(1)
    with mounted([node]) as (site,):
        site.make("web")
        job = by_a_lock_of_another_process(site, None)
        site.end()
        assert site.lockspaces() == {"web"}
        assert "web" in site.daemon.log()       # it says so
        job.send("convert a EX\n")
        job.wait_for("a granted EX")
        job.kill()
        job.wait()
        node.leave("web")


def test_keep_leaves_lockspaces_for_the_next_mount(two_nodes):
    one, two = two_nodes.nodes
    with mounted([two]) as (other,):
        with mounted([one], "keep") as (site,):
            site.node.run("umask 0; mkdir -m 750 /dlm/web && chown 12345 /dlm/web", check=True)
            other.make("web")
            other.do("put(web / '.ex' / 'v', b'there')")
            site.end()
            assert site.lockspaces() == {"web"}
        with mounted([one]) as (site,):         # shows it, and does not own it
            assert site.do("os.listdir(dlm)") == ["web"]
            assert site.do("oct(os.stat(web).st_mode), os.stat(web).st_uid") == ("0o40750", 12345)
            reset_by_udev(site, "640 12345 0")  # and its owner stays in control
            assert site.do("oct(os.stat(web).st_mode), os.stat(web).st_uid") == ("0o40750", 12345)
            assert site.do("get(web / '.pr' / 'v')") == b"there"
            holder = other.holder("flock")
            assert not site.is_free()
            holder.do("os.close(fd)")
            site.end()
            assert site.lockspaces() == {"web"}
        with mounted([one]) as (site,):
            assert rmdir(site) == 0
            assert site.lockspaces() == set()


def test_sigterm_keeps_every_lock_until_its_holder_closes(two_nodes):
    with mounted(two_nodes.nodes) as (one, two):
        make([one, two], "web")
        holders = [one.holder(way, way) for way in WAYS]
        watch = holders[0].start("wait_for_poll(fd, 0)")
        waiters = [one.waiter(way, way) for way in WAYS]
        far = two.waiter("flock", "posix")
        one.daemon.signal(signal.SIGTERM)
        for waiter in waiters:
            assert waiter.errno() == errno.ESHUTDOWN
        assert watch.result() & select.POLLHUP
        one.node.run("until ! mountpoint -q /dlm; do sleep 0.01; done", SOON, check=True)
        assert [two.is_free(way) for way in WAYS] == [False] * 4
        time.sleep(0.5)                         # and so it stays
        assert not far.is_there() and one.daemon.job.poll() is None
        for way, holder in zip(WAYS, holders):
            holder.do("os.close(fd)")
            two.wait_for(f"is_free(web, {way!r})" if way != "posix" else f"not is_free(web, {way!r})")
        far.result()
        one.clear()                             # the files of those who waited are open still
        wait_until(lambda: one.daemon.job.poll() is not None, SOON, "the daemon ends by itself")
        assert one.daemon.job.poll() == 0
        assert one.lockspaces() == set()


def test_a_second_sigterm_ends_it_at_once(two_nodes):
    with mounted(two_nodes.nodes) as (one, two):
        make([one, two], "web")
        one.holder("flock")
        waiter = two.waiter("flock")
        one.daemon.signal(signal.SIGTERM)
        one.node.run("until ! mountpoint -q /dlm; do sleep 0.01; done", SOON, check=True)
        assert not waiter.is_there()
        one.daemon.signal(signal.SIGTERM)
        waiter.result()
        wait_until(lambda: one.daemon.job.poll() is not None, SOON, "the daemon ends")
        assert one.daemon.job.poll() == 0
