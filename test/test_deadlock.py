"""Who waits in a circle: EDEADLK for POSIX locks, and for changes of a lock."""

import contextlib
import os
import signal
import subprocess

import pytest

from locking import WAYS, by, errno_name, held, lock, raw_lock, raw_take, taken, unlock, wait_until_queued
from lockspacefs_test import (TIMEOUT, Child, get, locks, make_lockspace, opened, put, remove_lockspace, status, touch,
                              wait_until, waiters)


def obey(peer, way):
    """A child that locks what it is told to and says how it went."""
    fds = {}
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    while True:
        path, mode = peer.wait_for()
        if way == "open":
            peer.say(errno_name(raw_take(way, path.parent, path.name, mode)))
            continue
        if path not in fds:
            fds[path] = os.open(path, os.O_RDWR)
        peer.say(errno_name(raw_lock(way, fds[path], mode)))


class Locker:
    """A process that takes locks at our word."""

    def __init__(self, way="posix"):
        self.child = Child(obey, way)

    def take(self, path, mode="ex"):
        """Its answer: 0 or the name of an errno."""
        self.child.say((path, mode))
        return self.child.wait_for()

    def drop(self, path):
        return self.take(path, "un")

    def wait_for(self, path, mode="ex"):
        """It is in the queue when this returns; answer() is how that went."""
        self.child.say((path, mode))
        wait_until_queued(path.parent, self.child)

    def answer(self):
        return self.child.wait_for()


@pytest.fixture
def files(lockspace):
    paths = [lockspace / f"r{i}" for i in range(8)]
    for path in paths:
        touch(path)
    return paths


@pytest.fixture
def other(mount):
    path = make_lockspace(mount, "other")
    touch(path / "r0")
    yield path
    remove_lockspace(path)


# --- circles of POSIX locks ------------------------------------------------

def test_two_processes_that_wait_for_each_other(files):
    r, s = files[:2]
    a, b = Locker(), Locker()
    assert (a.take(r), b.take(s)) == (0, 0)
    a.wait_for(s)
    assert b.take(r) == "EDEADLK"
    assert held(s.parent, s.name) == [("ex", "posix")]
    assert not a.child.has_said()
    assert b.drop(s) == 0
    assert a.answer() == 0
    assert b.take(r, "un") == 0


def test_the_refused_one_can_wait_once_the_circle_is_open(files):
    r, s = files[:2]
    a, b = Locker(), Locker()
    assert (a.take(r), b.take(s)) == (0, 0)
    a.wait_for(s)
    assert b.take(r) == "EDEADLK"
    assert b.drop(s) == 0
    assert a.answer() == 0
    b.wait_for(r)
    assert a.drop(r) == 0
    assert b.answer() == 0


def test_a_circle_through_two_lockspaces(files, other):
    r, s = files[0], other / "r0"
    a, b = Locker(), Locker()
    assert (a.take(r), b.take(s)) == (0, 0)
    a.wait_for(s)
    assert b.take(r) == "EDEADLK"
    assert b.drop(s) == 0
    assert a.answer() == 0


@pytest.mark.parametrize("count", [3, 8])
def test_a_circle_of_more(files, count):
    lockers = [Locker() for _ in range(count)]
    for locker, path in zip(lockers, files):
        assert locker.take(path) == 0
    for i in range(count - 1):
        lockers[i].wait_for(files[i + 1])
    assert lockers[-1].take(files[0]) == "EDEADLK"
    assert not any(locker.child.has_said() for locker in lockers)
    for i in reversed(range(count - 1)):
        assert lockers[i + 1].drop(files[i + 1]) == 0
        assert lockers[i].answer() == 0


def test_a_circle_of_readers_and_writers(files):
    """Whether one waits to read or to write makes no difference."""
    r, s = files[:2]
    a, b = Locker(), Locker()
    assert (a.take(r, "pr"), b.take(s, "ex")) == (0, 0)
    a.wait_for(s, "pr")
    assert b.take(r, "ex") == "EDEADLK"
    assert b.take(r, "pr") == 0
    assert b.drop(s) == 0
    assert a.answer() == 0


def test_a_try_never_says_edeadlk(files):
    r, s = files[:2]
    a = Locker()
    with taken("posix", s.parent, s.name), opened(r) as fd:
        assert a.take(r) == 0
        a.wait_for(s)
        assert raw_lock("posix", fd, "ex", wait=False) != 0
        assert errno_name(raw_lock("posix", fd, "ex", wait=False)) == "EAGAIN"
        assert errno_name(raw_lock("posix", fd, "ex")) == "EDEADLK"


def test_a_circle_through_the_queue(files):
    """c may share r with a, but stands in the queue behind b, who waits for a."""
    r, s = files[:2]
    a, b, c = Locker(), Locker(), Locker()
    assert (a.take(r, "pr"), c.take(s)) == (0, 0)
    b.wait_for(r, "ex")
    c.wait_for(r, "pr")
    assert a.take(s) == "EDEADLK"
    assert a.drop(r) == 0
    assert b.answer() == 0
    assert b.drop(r) == 0
    assert c.answer() == 0


def test_a_circle_that_the_queue_closes(files):
    """As above, but it is c, who comes last, that would wait in vain."""
    r, s = files[:2]
    a, b, c = Locker(), Locker(), Locker()
    assert (a.take(r, "pr"), c.take(s)) == (0, 0)
    b.wait_for(r, "ex")
    a.wait_for(s)
    assert c.take(r, "pr") == "EDEADLK"
    assert c.drop(s) == 0
    assert a.answer() == 0


def test_a_circle_through_one_of_several_readers(files):
    """A writer waits for every reader, not just for the first."""
    r, s = files[:2]
    for culprit in (0, 1, 2):
        readers, writer = [Locker() for _ in range(3)], Locker()
        assert [reader.take(r, "pr") for reader in readers] == [0, 0, 0]
        assert writer.take(s) == 0
        readers[culprit].wait_for(s)
        assert writer.take(r) == "EDEADLK"
        assert writer.drop(s) == 0
        assert readers[culprit].answer() == 0
        for locker in (*readers, writer):
            locker.child.kill()
        wait_until(lambda: not locks(r.parent))


# --- what is no circle -----------------------------------------------------

def test_a_chain_is_no_circle(files):
    lockers = [Locker() for _ in range(4)]
    for locker, path in zip(lockers, files):
        assert locker.take(path) == 0
    for i in range(3):
        lockers[i].wait_for(files[i + 1])
    for i in reversed(range(3)):
        assert lockers[i + 1].drop(files[i + 1]) == 0
        assert lockers[i].answer() == 0


def test_who_was_interrupted_waits_for_nobody(files):
    r, s = files[:2]
    a, b = Locker(), Locker()
    assert (a.take(r), b.take(s)) == (0, 0)
    a.wait_for(s)
    a.child.signal(signal.SIGUSR1)
    assert a.answer() == "EINTR"
    b.wait_for(r)
    assert a.drop(r) == 0
    assert b.answer() == 0


def test_who_was_granted_waits_for_nobody(files):
    r, s = files[:2]
    a, b = Locker(), Locker()
    assert b.take(s) == 0
    a.wait_for(s)
    assert b.drop(s) == 0
    assert a.answer() == 0
    assert a.take(r) == 0
    b.wait_for(r)
    assert a.drop(r) == 0
    assert b.answer() == 0


def test_who_was_killed_waits_for_nobody(files):
    r, s = files[:2]
    a, b, c = Locker(), Locker(), Locker()
    assert (a.take(r), b.take(s)) == (0, 0)
    a.wait_for(s)
    a.child.kill()
    wait_until(lambda: not waiters(s.parent))
    assert c.take(r) == 0
    b.wait_for(r)
    assert c.drop(r) == 0
    assert b.answer() == 0


@pytest.mark.parametrize("way", ["ofd", "flock", "open"])
def test_only_posix_locks_are_looked_at(files, way):
    """Open files have no owner who could wait in a circle: both wait until one is killed."""
    r, s = files[:2]
    a, b = Locker(way), Locker(way)
    assert (a.take(r), b.take(s)) == (0, 0)
    a.wait_for(s)
    b.wait_for(r)
    assert len(waiters(r.parent)) == 2
    assert not a.child.has_said() and not b.child.has_said()
    a.child.kill()
    assert b.answer() == 0


# --- very many owners --------------------------------------------------------

@contextlib.contextmanager
def owners(helpers, lockspace, waiting, *kinds):
    """Threads of a helper: test/owners.c says what the kinds mean. So many of them are @waiting in the block."""
    with subprocess.Popen([helpers / "owners", lockspace], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            print(*kinds, "", sep="\n", file=process.stdin, flush=True)
            assert process.stdout.readline() == "held\n"
            print("go", file=process.stdin, flush=True)
            wait_until(lambda: status(lockspace.parent)["waiting"] == waiting, 4 * TIMEOUT)
            yield
        finally:
            process.stdin.close()
            process.wait(TIMEOUT)
    wait_until(lambda: status(lockspace.parent)["waiting"] == 0)


def waits_in_vain(locker, path):
    """It is no circle: it would wait, until a signal ends that."""
    before = status(path.parent.parent)["waiting"]
    locker.child.say((path, "ex"))
    wait_until(lambda: status(path.parent.parent)["waiting"] == before + 1)
    locker.child.signal(signal.SIGUSR1)
    assert locker.answer() == "EINTR"


def test_a_circle_of_a_thousand(lockspace, helpers, engine):
    """Each has a file and waits for the next one's; the last closes the circle, somebody else does not."""
    count = 1000 if engine == "local" else 300
    last, other = Locker(), Locker()
    for name in [f"r{count}", "own"]:
        touch(lockspace / name)
    assert (last.take(lockspace / f"r{count}"), other.take(lockspace / "own")) == (0, 0)
    with owners(helpers, lockspace, count, *(f"1 r{i} ex r{i + 1} ex" for i in range(count))):
        assert last.take(lockspace / "r0") == "EDEADLK"
        waits_in_vain(other, lockspace / "r0")


def search_us(daemon, asker, path):
    """What it costs the daemon that somebody asks for a lock and then leaves."""
    costs = []
    for _ in range(9):
        before = daemon.cpu_time
        waits_in_vain(asker, path)
        costs.append((daemon.cpu_time - before) * 1e6)
    return min(costs)


CROWDS = {                                      # of owners who hold r1 and wait for r2; how many make the difference plain
    "each waits for all": (1000, ["{n} r1 pr r2 ex", "{n} r2 pr"]),
    "each waits behind all": (2000, ["{n} r1 pr r2 pr", "1 r2 ex"]),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_search_costs_in_proportion_to_the_owners(daemon, lockspace, helpers, crowd):
    """In CPU time, which a guest has by ticks of 10 ms: for the engine local, the search is the same on both."""
    few, (many, kinds) = 100, CROWDS[crowd]
    asker = Locker()
    touch(lockspace / "own")
    assert asker.take(lockspace / "own") == 0
    costs = []
    for n in [few, many]:
        with owners(helpers, lockspace, n, *(kind.format(n=n) for kind in kinds)):
            costs.append(search_us(daemon, asker, lockspace / "r1"))
    assert costs[1] < 2 * many / few * costs[0]


# --- changes ---------------------------------------------------------------

@pytest.mark.parametrize("way", ["posix", "ofd"])
def test_of_two_changes_to_write_the_second_is_refused_and_keeps_its_lock(files, way):
    r = files[0]
    a, b = Locker(way), Locker(way)
    assert (a.take(r, "pr"), b.take(r, "pr")) == (0, 0)
    a.wait_for(r, "ex")
    assert b.take(r, "ex") == "EDEADLK"
    rows = {row["pid"]: (row["state"], row["mode"], row["by"]) for row in locks(r.parent)}
    assert rows == {a.child.pid: ("converting", "PR", by(way)), b.child.pid: ("held", "PR", by(way))}
    assert not a.child.has_said()
    assert b.drop(r) == 0
    assert a.answer() == 0
    assert held(r.parent, r.name) == [("ex", by(way))]


def test_of_two_flock_changes_one_gives_way_and_both_get_it(files):
    r = files[0]
    a, b = Locker("flock"), Locker("flock")
    assert (a.take(r, "pr"), b.take(r, "pr")) == (0, 0)
    a.wait_for(r, "ex")
    b.child.say((r, "ex"))
    wait_until(lambda: a.child.has_said() or b.child.has_said())
    first, second = (a, b) if a.child.has_said() else (b, a)
    assert first.answer() == 0
    assert held(r.parent, r.name) == [("ex", "flock")]
    assert not second.child.has_said()
    assert first.drop(r) == 0
    assert second.answer() == 0
    assert held(r.parent, r.name) == [("ex", "flock")]


@pytest.mark.parametrize("count", [2, 5])
def test_whoever_changes_to_exclusive_is_alone(lockspace, directory, count):
    """Each step under an exclusive lock that was a shared one before counts."""
    counter = directory / "counter"
    put(counter, b"0")

    def count_under_changed_locks(peer):
        for _ in range(40):
            with taken("flock", lockspace, "r", "pr", wait=True) as fd:
                lock("flock", fd, "ex")
                put(counter, b"%d" % (int(get(counter)) + 1))
                lock("flock", fd, "pr")
                unlock("flock", fd)

    children = [Child(count_under_changed_locks) for _ in range(count)]
    for child in children:
        child.join()
    assert int(get(counter)) == 40 * count


def test_a_change_waits_for_readers_who_do_not_change(files):
    r = files[0]
    a, b = Locker("flock"), Locker("flock")
    assert (a.take(r, "pr"), b.take(r, "pr")) == (0, 0)
    a.wait_for(r, "ex")
    assert not a.child.has_said()
    assert b.drop(r) == 0
    assert a.answer() == 0


@pytest.mark.parametrize("way", WAYS)
def test_nobody_waits_for_himself_in_vain_when_the_lock_is_free(files, way):
    a = Locker(way)
    for path in files:
        assert a.take(path) == 0
