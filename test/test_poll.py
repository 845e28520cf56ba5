"""poll(2): POLLPRI once somebody has waited for what an open file holds."""

import os
import select

import pytest

from locking import WAYS, is_free, let_go, lock, start_waiter, taken, try_lock, unlock
from lockspacefs_test import Child, opened, touch, wait_for_poll, wait_until, waiters

READY = select.POLLIN | select.POLLOUT
EVERYTHING = READY | select.POLLPRI


def ready(fd, events=EVERYTHING):
    """What poll(2) says at this moment."""
    return wait_for_poll(fd, events, 0)


# --- always ready ----------------------------------------------------------

def test_a_lock_file_can_always_be_read_and_written(lockspace):
    with opened(lockspace / "r", os.O_RDWR | os.O_CREAT) as fd:
        assert ready(fd) == READY
        lock("flock", fd)
        assert ready(fd) == READY
        with opened(lockspace / "r") as other:
            assert ready(other) == READY
            assert select.select([other], [other], [other], 0) == ([other], [other], [])


@pytest.mark.parametrize("mode", ["nl", "pr", "ex"])
def test_so_can_a_file_in_a_mode_directory(lockspace, mode):
    with taken("open", lockspace, "r", mode) as fd:
        assert ready(fd) == READY


# --- somebody waits --------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_the_holder_is_told_that_somebody_waits(lockspace, way):
    for waiting in WAYS:
        with taken(way, lockspace, "r") as fd:
            assert ready(fd, select.POLLPRI) == 0
            waiter = start_waiter(waiting, lockspace, "r")
            assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
            assert ready(fd) == EVERYTHING
        waiter.wait_for("locked")
        let_go(waiter)


@pytest.mark.parametrize("way", WAYS)
def test_a_blocked_poll_wakes_up(lockspace, way):
    def watch(peer):
        with taken(way, lockspace, "r") as fd:
            assert ready(fd, select.POLLPRI) == 0
            peer.say("polling")
            peer.say(wait_for_poll(fd, select.POLLPRI))
            peer.wait_for("release")

    child = Child(watch)
    child.wait_for("polling")
    waiter = start_waiter("flock", lockspace, "r")
    child.wait_for(select.POLLPRI)
    let_go(child)
    waiter.wait_for("locked")


@pytest.mark.parametrize("edge", [0, select.EPOLLET], ids=["level", "edge"])
def test_epoll_tells_too(lockspace, edge):
    with taken("flock", lockspace, "r") as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLPRI | edge)
        assert epoll.poll(0) == []
        start_waiter("flock", lockspace, "r")
        assert epoll.poll(30) == [(fd, select.EPOLLPRI)]
        assert epoll.poll(0) == ([] if edge else [(fd, select.EPOLLPRI)])


def test_select_shows_it_as_an_exception(lockspace):
    with taken("flock", lockspace, "r") as fd:
        assert select.select([], [], [fd], 0) == ([], [], [])
        start_waiter("open", lockspace, "r", "pr")
        assert select.select([], [], [fd], 30) == ([], [], [fd])


def test_every_holder_in_the_way_is_told(lockspace):
    with taken("flock", lockspace, "r", "pr") as a, taken("open", lockspace, "r", "pr") as b:
        start_waiter("flock", lockspace, "r", "ex")
        for fd in (a, b):
            assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI


@pytest.mark.parametrize("bystander, other, wanted", [("nl", "cr", "ex"), ("cr", "cw", "pr"), ("cr", "cw", "pw")])
def test_a_holder_who_is_not_in_the_way_is_not_told(lockspace, bystander, other, wanted):
    with taken("open", lockspace, "r", bystander) as shares, taken("open", lockspace, "r", other) as fd:
        start_waiter("open", lockspace, "r", wanted)
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        assert ready(shares, select.POLLPRI) == 0


def test_an_open_file_without_a_lock_is_not_told(lockspace):
    with taken("flock", lockspace, "r") as fd, opened(lockspace / "r") as idle:
        start_waiter("flock", lockspace, "r")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        assert ready(idle, select.POLLPRI) == 0


def test_the_holder_of_another_resource_is_not_told(lockspace):
    with taken("flock", lockspace, "r") as fd, taken("flock", lockspace, "s") as other:
        start_waiter("flock", lockspace, "r")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        assert ready(other, select.POLLPRI) == 0


def test_edge_triggered_epoll_tells_each_time(lockspace):
    with taken("flock", lockspace, "r") as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLPRI | select.EPOLLET)
        for _ in range(3):
            assert epoll.poll(0) == []
            waiter = start_waiter("flock", lockspace, "r")
            assert epoll.poll(30) == [(fd, select.EPOLLPRI)]
            unlock("flock", fd)
            waiter.wait_for("locked")
            let_go(waiter)
            lock("flock", fd)


def test_several_pollers_of_one_file_are_all_told(lockspace):
    def watch(peer, fd):
        peer.say("polling")
        return wait_for_poll(fd, select.POLLPRI)

    with taken("flock", lockspace, "r") as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLPRI)
        children = [Child(watch, fd, keep=(fd,)) for _ in range(3)]
        for child in children:
            child.wait_for("polling")
        start_waiter("flock", lockspace, "r")
        assert [child.join() for child in children] == [select.POLLPRI] * 3
        assert epoll.poll(30) == [(fd, select.EPOLLPRI)]


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_try_tells_nobody(lockspace, way):
    with taken("flock", lockspace, "r") as fd:
        assert not is_free(lockspace, "r", way=way)
        assert ready(fd, select.POLLPRI) == 0


# --- for how long ----------------------------------------------------------

def test_it_is_not_withdrawn_when_he_gives_up(lockspace):
    with taken("flock", lockspace, "r") as fd:
        waiter = start_waiter("flock", lockspace, "r")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        waiter.kill()
        wait_until(lambda: not waiters(lockspace))
        assert ready(fd, select.POLLPRI) == select.POLLPRI


@pytest.mark.parametrize("value", [b"", b"new"])
def test_nor_by_fsync(lockspace, value):
    with taken("open", lockspace, "r") as fd:
        waiter = start_waiter("flock", lockspace, "r")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        waiter.kill()
        wait_until(lambda: waiters(lockspace) == [])
        os.pwrite(fd, value, 0)
        os.fsync(fd)
        assert ready(fd, select.POLLPRI) == select.POLLPRI


def test_unlocking_ends_it_and_a_new_lock_begins_without(lockspace):
    with taken("flock", lockspace, "r") as fd:
        waiter = start_waiter("flock", lockspace, "r")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        unlock("flock", fd)
        assert ready(fd, select.POLLPRI) == 0
        waiter.wait_for("locked")
        let_go(waiter)
        assert try_lock("flock", fd)
        assert ready(fd, select.POLLPRI) == 0
        start_waiter("flock", lockspace, "r")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI


def test_a_change_that_lets_the_waiter_in_ends_it(lockspace):
    with taken("flock", lockspace, "r", "ex") as fd:
        reader = start_waiter("flock", lockspace, "r", "pr")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        lock("flock", fd, "pr")
        reader.wait_for("locked")
        assert ready(fd, select.POLLPRI) == 0
        start_waiter("flock", lockspace, "r", "ex")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI


def test_who_still_waits_after_a_change_is_told_again(lockspace):
    with taken("flock", lockspace, "r", "ex") as fd:
        start_waiter("flock", lockspace, "r", "ex")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        lock("flock", fd, "pr")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI


@pytest.mark.parametrize("kept, dropped", [("flock", "ofd"), ("ofd", "flock"), ("posix", "flock"), ("flock", "posix")])
def test_it_stays_while_somebody_waits_for_the_other_lock_of_an_open_file(lockspace, kept, dropped):
    with opened(lockspace / "r", os.O_RDWR | os.O_CREAT) as fd:
        lock(kept, fd, "pr")
        lock(dropped, fd, "pr")
        waiter = start_waiter("flock", lockspace, "r", "ex")
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        unlock(dropped, fd)
        assert not waiter.has_said()
        assert ready(fd, select.POLLPRI) == select.POLLPRI
        unlock(kept, fd)
        assert ready(fd, select.POLLPRI) == 0
        waiter.wait_for("locked")


def test_duplicates_are_told_alike(lockspace):
    with taken("flock", lockspace, "r") as fd:
        copy = os.dup(fd)
        start_waiter("flock", lockspace, "r")
        assert wait_for_poll(copy, select.POLLPRI) == select.POLLPRI
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        os.close(copy)


def test_a_polite_holder_hands_over_whenever_asked(lockspace):
    """What POLLPRI is for: keep the lock until somebody wants it."""
    def hold_politely(peer):
        with opened(lockspace / "r") as fd:
            while True:
                lock("flock", fd)
                peer.say("mine")
                wait_for_poll(fd, select.POLLPRI)
                unlock("flock", fd)
                peer.wait_for("go on")

    touch(lockspace / "r")
    holder = Child(hold_politely)
    for _ in range(20):
        holder.wait_for("mine")
        with taken("flock", lockspace, "r", wait=True):
            pass
        holder.say("go on")
