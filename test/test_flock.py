"""flock(2) on lock files: SH is PR, EX is EX, NB is NOQUEUE."""

import errno
import fcntl
import itertools
import os
import socket
import threading

import pytest

from locking import (COMPATIBLE, WAYS, by, held, is_free, is_queued, let_go, lock, start_holder, start_waiter, take,
                     taken, try_lock, unlock, wait_until_queued)
from lockspacefs_test import (MODES, NOBODY, Child, get, locks, make_lockspace, opened, put, raises_errno,
                              remove_lockspace, run_as, touch, wait_for_waiters, wait_until)

CREATE = os.O_RDWR | os.O_CREAT


# --- what excludes what ----------------------------------------------------

@pytest.mark.parametrize("first, second, shares", [
    ("pr", "pr", True), ("pr", "ex", False), ("ex", "pr", False), ("ex", "ex", False)])
def test_shared_locks_share_and_exclusive_ones_do_not(lockspace, first, second, shares):
    with opened(lockspace / "r", CREATE) as a, opened(lockspace / "r") as b:
        assert try_lock("flock", a, first)
        assert try_lock("flock", b, second) == shares


@pytest.mark.parametrize("flock_mode", ["pr", "ex"])
def test_shared_is_pr_and_exclusive_is_ex_towards_mode_directories(lockspace, flock_mode):
    for mode in MODES:
        with taken("flock", lockspace, "r", flock_mode):
            assert is_free(lockspace, "r", mode) == (mode in COMPATIBLE[flock_mode]), mode
        with taken("open", lockspace, "r", mode), opened(lockspace / "r", CREATE) as fd:
            assert try_lock("flock", fd, flock_mode) == (mode in COMPATIBLE[flock_mode]), mode


@pytest.mark.parametrize("first", WAYS)
def test_all_ways_of_locking_exclude_each_other_between_processes(lockspace, first):
    for held_mode in ("pr", "ex"):
        holder = start_holder(first, lockspace, "r", held_mode)
        for way, mode in itertools.product(WAYS, ("pr", "ex")):
            assert is_free(lockspace, "r", mode, way) == (held_mode == mode == "pr"), (way, mode)
        let_go(holder)
        for way, mode in itertools.product(WAYS, ("pr", "ex")):
            assert is_free(lockspace, "r", mode, way), (way, mode)


@pytest.mark.parametrize("way", WAYS)
def test_locks_tells_how_each_lock_was_taken(lockspace, way):
    for mode in ("PR", "EX"):
        with taken(way, lockspace, "r", mode.lower()):
            row, = locks(lockspace)
            assert (row["resource"], row["state"], row["mode"], row["wanted"]) == ("r", "held", mode, "-")
            assert row["by"] == by(way)
            assert row["pid"] == os.getpid()
        assert locks(lockspace) == []


def test_waiters_and_conversions_are_told_apart_in_locks(lockspace):
    with taken("flock", lockspace, "r", "pr"):
        waiter = start_waiter("open", lockspace, "r", "pw")
        row, = [row for row in locks(lockspace) if row["pid"] == waiter.pid]
        assert (row["state"], row["wanted"], row["by"]) == ("waiting", "PW", "open")
        waiter.kill()

        def upgrade(peer):
            fd = take("flock", lockspace, "r", "pr")
            lock("flock", fd, "ex")

        upgrader = wait_until_queued(lockspace, Child(upgrade))
        row, = [row for row in locks(lockspace) if row["pid"] == upgrader.pid]
        assert (row["state"], row["wanted"], row["by"]) == ("converting", "EX", "flock")


@pytest.mark.parametrize("way", ["posix", "ofd"])
def test_flock_and_fcntl_on_one_open_file_are_two_locks(lockspace, way):
    with opened(lockspace / "r", CREATE) as fd:
        assert try_lock("flock", fd, "ex")
        assert not try_lock(way, fd, "ex")
        assert not try_lock(way, fd, "pr")
        unlock("flock", fd)
        assert try_lock(way, fd, "ex")
        assert not try_lock("flock", fd, "pr")
        unlock(way, fd)
        assert try_lock("flock", fd, "pr") and try_lock(way, fd, "pr")
        assert held(lockspace, "r") == [("pr", "flock"), ("pr", by(way))]


def test_resources_and_lockspaces_are_apart(lockspace, mount):
    other = make_lockspace(mount, "other")
    with taken("flock", lockspace, "r"):
        assert is_free(lockspace, "s", way="flock")
        assert is_free(other, "r", way="flock")
        assert not is_free(lockspace, "r", way="flock")
    remove_lockspace(other)


def test_opening_takes_no_lock_and_never_waits(lockspace):
    with taken("flock", lockspace, "r"):
        with opened(lockspace / "r") as fd, opened(lockspace / "r", os.O_RDONLY), \
             opened(lockspace / "r", os.O_WRONLY | os.O_TRUNC):
            assert len(locks(lockspace)) == 1
            assert not try_lock("flock", fd, "pr")
            assert len(locks(lockspace)) == 1


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_any_open_mode_will_do_for_flock(lockspace, flags):
    touch(lockspace / "r")
    with opened(lockspace / "r", flags) as fd:
        for mode in ("pr", "ex", "pr"):
            assert try_lock("flock", fd, mode)
            assert held(lockspace, "r") == [(mode, "flock")]


# --- taking, changing, dropping --------------------------------------------

def test_unlocking_what_is_not_locked_is_fine(lockspace):
    with opened(lockspace / "r", CREATE) as fd:
        unlock("flock", fd)
        lock("flock", fd, "ex")
        unlock("flock", fd)
        unlock("flock", fd)
        assert locks(lockspace) == []


@pytest.mark.parametrize("mode", ["pr", "ex"])
def test_locking_again_what_one_has_changes_nothing(lockspace, mode):
    with opened(lockspace / "r", CREATE) as fd:
        lock("flock", fd, mode)
        assert try_lock("flock", fd, mode)
        lock("flock", fd, mode)
        assert held(lockspace, "r") == [(mode, "flock")]
        unlock("flock", fd)
        assert held(lockspace, "r") == []


def test_a_shared_lock_becomes_exclusive_in_place(lockspace):
    with opened(lockspace / "r", CREATE) as fd:
        lock("flock", fd, "pr")
        assert try_lock("flock", fd, "ex")
        assert held(lockspace, "r") == [("ex", "flock")]
        assert not is_free(lockspace, "r", "pr")
        lock("flock", fd, "pr")
        assert held(lockspace, "r") == [("pr", "flock")]
        lock("flock", fd, "ex")
        assert held(lockspace, "r") == [("ex", "flock")]


def test_a_refused_try_keeps_the_shared_lock(lockspace):
    with opened(lockspace / "r", CREATE) as fd:
        lock("flock", fd, "pr")
        with taken("flock", lockspace, "r", "pr"):
            for _ in range(3):
                with raises_errno(errno.EWOULDBLOCK):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert held(lockspace, "r") == [("pr", "flock"), ("pr", "flock")]
        assert held(lockspace, "r") == [("pr", "flock")]
        assert not is_free(lockspace, "r", "ex")
        assert try_lock("flock", fd, "ex")


def test_a_refused_try_leaves_nothing_behind(lockspace):
    with taken("flock", lockspace, "r"), opened(lockspace / "r") as fd:
        for _ in range(3):
            assert not try_lock("flock", fd, "ex")
            assert not try_lock("flock", fd, "pr")
        assert len(locks(lockspace)) == 1
    assert is_free(lockspace, "r")


def test_a_change_to_exclusive_waits_for_the_other_readers(lockspace):
    def upgrade(peer):
        fd = take("flock", lockspace, "r", "pr")
        lock("flock", fd, "ex")
        peer.say("exclusive")
        peer.wait_for("release")
        os.close(fd)

    with taken("flock", lockspace, "r", "pr"):
        child = wait_until_queued(lockspace, Child(upgrade))
        assert not child.has_said()
    child.wait_for("exclusive")
    assert held(lockspace, "r") == [("ex", "flock")]
    let_go(child)


def test_exclusive_to_shared_lets_the_readers_in(lockspace):
    with taken("flock", lockspace, "r", "ex") as fd:
        readers = [start_waiter(way, lockspace, "r", "pr") for way in WAYS]
        lock("flock", fd, "pr")
        for reader in readers:
            reader.wait_for("locked")
        assert held(lockspace, "r") == sorted([("pr", "flock"), *(("pr", by(way)) for way in WAYS)])


def test_exclusive_to_shared_never_waits(lockspace):
    with taken("flock", lockspace, "r", "ex") as fd:
        writer = start_waiter("flock", lockspace, "r", "ex")
        lock("flock", fd, "pr")
        assert held(lockspace, "r") == [("pr", "flock")]
        assert is_queued(lockspace, writer.pid) and not writer.has_said()
        unlock("flock", fd)
        writer.wait_for("locked")


# --- waiting and queues ----------------------------------------------------

@pytest.mark.parametrize("first", WAYS)
def test_a_waiter_gets_it_when_the_holder_closes(lockspace, first):
    for way in WAYS:
        with taken(first, lockspace, "r"):
            child = start_waiter(way, lockspace, "r")
            assert not child.has_said()
        child.wait_for("locked")
        assert held(lockspace, "r") == [("ex", by(way))]
        let_go(child)


def test_a_waiter_gets_it_when_the_holder_unlocks(lockspace):
    with taken("flock", lockspace, "r") as fd:
        child = start_waiter("flock", lockspace, "r")
        unlock("flock", fd)
        child.wait_for("locked")
        assert not try_lock("flock", fd, "ex")


@pytest.mark.parametrize("way", WAYS)
def test_waiters_get_it_in_the_order_they_came(lockspace, way):
    with taken(way, lockspace, "r"):
        children = [start_waiter(way, lockspace, "r") for _ in range(5)]
    while children:
        child = children.pop(0)
        child.wait_for("locked")
        assert not any(other.has_said() for other in children)
        let_go(child)


def test_all_readers_in_a_row_get_it_at_once(lockspace):
    with taken("flock", lockspace, "r"):
        readers = [start_waiter("flock", lockspace, "r", "pr") for _ in range(4)]
    for reader in readers:
        reader.wait_for("locked")
    assert held(lockspace, "r") == [("pr", "flock")] * 4


def test_nobody_new_passes_a_waiter(lockspace):
    with taken("flock", lockspace, "r", "pr"):
        writer = start_waiter("flock", lockspace, "r", "ex")
        assert not is_free(lockspace, "r", "pr", way="flock")
        assert not is_free(lockspace, "r", "pr", way="open")
        reader = start_waiter("flock", lockspace, "r", "pr")
    writer.wait_for("locked")
    assert not reader.has_said()
    let_go(writer)
    reader.wait_for("locked")


def test_a_conversion_goes_before_the_waiters(lockspace):
    def upgrade(peer):
        fd = take("flock", lockspace, "r", "pr")
        peer.say("shared")
        peer.wait_for("upgrade")
        lock("flock", fd, "ex")
        peer.say("exclusive")
        peer.wait_for("release")
        os.close(fd)

    with taken("flock", lockspace, "r", "pr"):
        upgrader = Child(upgrade)
        upgrader.wait_for("shared")
        waiter = start_waiter("flock", lockspace, "r", "ex")
        upgrader.say("upgrade")
        wait_until_queued(lockspace, upgrader)
    upgrader.wait_for("exclusive")
    assert not waiter.has_said()
    let_go(upgrader)
    waiter.wait_for("locked")


@pytest.mark.parametrize("way", WAYS)
def test_only_one_at_a_time_is_in(lockspace, directory, way):
    """Four processes count in a plain file, and every step counts."""
    counter = directory / "counter"
    put(counter, b"0")

    def count(peer):
        for _ in range(100):
            with taken(way, lockspace, "r", wait=True):
                put(counter, b"%d" % (int(get(counter)) + 1))

    children = [Child(count) for _ in range(4)]
    for child in children:
        child.join()
    assert int(get(counter)) == 400


# --- who has it: the open file ---------------------------------------------

def test_a_duplicate_is_the_same_lock(lockspace):
    fd = take("flock", lockspace, "r")
    with opened(lockspace / "r") as stranger:
        copy = os.dup(fd)
        assert try_lock("flock", copy, "ex")
        os.close(fd)
        assert not try_lock("flock", stranger, "pr")
        os.close(copy)
        assert try_lock("flock", stranger, "ex")


def test_any_duplicate_unlocks(lockspace):
    with taken("flock", lockspace, "r") as fd:
        copy = os.dup(fd)
        unlock("flock", copy)
        os.close(copy)
        assert is_free(lockspace, "r")


def test_a_forked_process_shares_the_lock(lockspace):
    def share(peer, fd):
        assert try_lock("flock", fd, "ex")
        peer.say("shared")
        peer.wait_for("close")
        os.close(fd)

    fd = take("flock", lockspace, "r")
    child = Child(share, fd, keep=(fd,))
    child.wait_for("shared")
    os.close(fd)
    assert not is_free(lockspace, "r")
    child.say("close")
    child.join()
    assert is_free(lockspace, "r")


def test_a_forked_process_can_unlock_for_both(lockspace):
    with taken("flock", lockspace, "r") as fd:
        Child(lambda peer: unlock("flock", fd), keep=(fd,)).join()
        assert is_free(lockspace, "r")


def test_the_death_of_one_sharer_keeps_the_lock(lockspace):
    def share(peer, fd):
        peer.say("there")
        peer.wait_for("nothing")

    fd = take("flock", lockspace, "r")
    children = [Child(share, fd, keep=(fd,)) for _ in range(2)]
    os.close(fd)
    for child in children:
        child.wait_for("there")
        assert not is_free(lockspace, "r")
    children[0].kill()
    assert not is_free(lockspace, "r")
    children[1].kill()
    wait_until(lambda: is_free(lockspace, "r"))


def test_two_processes_may_wait_on_one_open_file(lockspace):
    def wait(peer, fd):
        lock("flock", fd, "ex")
        peer.say("locked")
        peer.wait_for("release")
        os.close(fd)

    with taken("flock", lockspace, "r"):
        fd = os.open(lockspace / "r", os.O_RDWR | os.O_CLOEXEC)
        children = [wait_until_queued(lockspace, Child(wait, fd, keep=(fd,)))]
        children.append(Child(wait, fd, keep=(fd,)))
        os.close(fd)
    for child in children:
        child.wait_for("locked")
    assert held(lockspace, "r") == [("ex", "flock")]
    let_go(children[0])
    assert not is_free(lockspace, "r")
    let_go(children[1])
    assert is_free(lockspace, "r")


def test_who_waits_on_an_open_file_is_not_disturbed_when_another_there_is_killed(lockspace):
    def wait(peer, fd):
        peer.say("there")
        lock("flock", fd, "ex")
        peer.say("locked")
        peer.wait_for("release")

    for victim in (0, 1):
        with taken("flock", lockspace, "r"):
            fd = os.open(lockspace / "r", os.O_RDWR | os.O_CLOEXEC)
            children = [wait_until_queued(lockspace, Child(wait, fd, keep=(fd,)))]
            children.append(Child(wait, fd, keep=(fd,)))
            for child in children:
                child.wait_for("there")
            os.close(fd)
            children[victim].kill()
        survivor = children[1 - victim]
        survivor.wait_for("locked")
        assert held(lockspace, "r") == [("ex", "flock")]
        let_go(survivor)
        assert is_free(lockspace, "r")


def test_closing_one_descriptor_does_not_disturb_who_waits_on_its_copy(lockspace):
    def wait(peer, fd):
        lock("flock", fd, "ex")
        peer.say("locked")

    with taken("flock", lockspace, "r"):
        fd = os.open(lockspace / "r", os.O_RDWR | os.O_CLOEXEC)
        child = wait_until_queued(lockspace, Child(wait, fd, keep=(fd,)))
        os.close(fd)
        assert is_queued(lockspace, child.pid) and not child.has_said()
    child.wait_for("locked")


def test_unlocking_does_not_wait_for_who_waits_on_the_same_open_file(lockspace):
    def wait(peer, fd):
        lock("flock", fd, "ex")
        peer.say("locked")

    with taken("flock", lockspace, "r"), opened(lockspace / "r") as fd:
        child = wait_until_queued(lockspace, Child(wait, fd, keep=(fd,)))
        unlock("flock", fd)
        assert not child.has_said()
    child.wait_for("locked")


def test_an_unlock_by_one_sharer_leaves_the_other_waiting_with_nothing(lockspace):
    """Who waits to change a shared lock goes on waiting for the exclusive one, without the shared one."""
    def change(peer, fd):
        lock("flock", fd, "ex")
        peer.say("locked")
        peer.wait_for("release")
        os.close(fd)

    with taken("flock", lockspace, "r", "pr"):
        fd = take("flock", lockspace, "r", "pr")
        child = Child(change, fd, keep=(fd,))
        wait_for_waiters(lockspace)
        unlock("flock", fd)
        os.close(fd)
        wait_until(lambda: held(lockspace, "r") == [("pr", "flock")])
        assert len(wait_for_waiters(lockspace)) == 1
        assert not child.has_said()
    child.wait_for("locked")
    assert held(lockspace, "r") == [("ex", "flock")]
    let_go(child)
    assert is_free(lockspace, "r")


@pytest.mark.parametrize("way", WAYS)
def test_the_process_is_named_whose_thread_took_the_lock(lockspace, way):
    seen = []

    def take_and_look():
        with taken(way, lockspace, "r"):
            seen.extend(locks(lockspace))

    thread = threading.Thread(target=take_and_look)
    thread.start()
    thread.join()
    assert [row["pid"] for row in seen] == [os.getpid()]


# --- unlink ----------------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_a_lock_held_across_an_unlink_stays_a_lock(lockspace, way):
    touch(lockspace / "r")
    holder = start_holder(way, lockspace, "r")
    os.unlink(lockspace / "r")
    assert os.listdir(lockspace) == []
    for other in WAYS:
        assert not is_free(lockspace, "r", way=other)
    assert held(lockspace, "r") == [("ex", by(way))]
    let_go(holder)
    assert is_free(lockspace, "r", way=way)


@pytest.mark.parametrize("way", WAYS)
def test_a_waiter_gets_the_lock_of_a_file_that_is_unlinked_and_made_again(lockspace, way):
    touch(lockspace / "r")
    with taken("flock", lockspace, "r"):
        waiter = start_waiter(way, lockspace, "r")
        os.unlink(lockspace / "r")
        touch(lockspace / "r")
        assert not waiter.has_said()
    waiter.wait_for("locked")
    assert not is_free(lockspace, "r", way="flock")


def test_an_unlinked_open_file_and_a_new_one_of_that_name_are_one_lock(lockspace):
    with opened(lockspace / "r", CREATE) as old:
        os.unlink(lockspace / "r")
        with opened(lockspace / "r", CREATE) as new:
            assert try_lock("flock", old, "ex")
            assert not try_lock("flock", new, "ex")
            unlock("flock", old)
            assert try_lock("flock", new, "ex")
            assert not try_lock("flock", old, "pr")


# --- who may ---------------------------------------------------------------

def allowed(path, flags, mode):
    """errno of flock as the caller, 0 if it locks."""
    with opened(path, flags) as fd:
        try:
            lock("flock", fd, mode, wait=False)
        except OSError as error:
            return error.errno
    return 0


@pytest.mark.parametrize("permissions, flags, shared, exclusive", [
    (0o644, os.O_RDONLY, 0, errno.EACCES),      # read is enough for PR only
    (0o622, os.O_WRONLY, 0, 0),                 # write alone is enough for every mode
    (0o666, os.O_RDONLY, 0, 0),                 # what counts is what he may, not how he opened
    (0o666, os.O_RDWR, 0, 0),
])
def test_exclusive_needs_write_permission(lockspace, permissions, flags, shared, exclusive):
    touch(lockspace / "r")
    os.chmod(lockspace / "r", permissions)
    assert run_as(NOBODY, lambda: allowed(lockspace / "r", flags, "pr")) == shared
    assert run_as(NOBODY, lambda: allowed(lockspace / "r", flags, "ex")) == exclusive


def test_what_may_be_locked_is_decided_at_open(lockspace):
    touch(lockspace / "r")
    os.chmod(lockspace / "r", 0o666)

    def use(peer):
        with opened(lockspace / "r", os.O_RDONLY) as fd:
            peer.say("opened")
            peer.wait_for("changed")
            lock("flock", fd, "ex", wait=False)
            with opened(lockspace / "r", os.O_RDONLY) as late, raises_errno(errno.EACCES):
                unlock("flock", fd)
                lock("flock", late, "ex", wait=False)

    child = Child(use, uid=NOBODY)
    child.wait_for("opened")
    os.chmod(lockspace / "r", 0o644)
    child.say("changed")
    child.join()


@pytest.mark.parametrize("opener, user, passes", [(0, NOBODY, True), (NOBODY, 0, False)])
def test_a_descriptor_takes_its_rights_along(lockspace, opener, user, passes):
    """Sent over a socket, it may what its opener might, whoever uses it."""
    touch(lockspace / "r")
    os.chmod(lockspace / "r", 0o644)
    sending, receiving = socket.socketpair()

    def send(peer):
        with opened(lockspace / "r", os.O_RDONLY) as fd:
            socket.send_fds(sending, [b"x"], [fd])

    def use(peer):
        _, (fd,), _, _ = socket.recv_fds(receiving, 1, 1)
        return try_lock("flock", fd, "ex")

    with sending, receiving:
        Child(send, uid=opener, keep=(sending.fileno(),)).join()
        child = Child(use, uid=user, keep=(receiving.fileno(),))
        if passes:
            assert child.join()
        else:
            with raises_errno(errno.EACCES):
                child.join()


# --- directories -----------------------------------------------------------

def test_flock_on_a_directory_is_the_kernels_own_and_no_lock_of_ours(lockspace, mount):
    for path in (mount, lockspace):
        with opened(path, os.O_RDONLY | os.O_DIRECTORY) as a, opened(path, os.O_RDONLY | os.O_DIRECTORY) as b:
            lock("flock", a, "ex")
            assert not try_lock("flock", b, "pr")
            assert locks(lockspace) == []
    with opened(lockspace, os.O_RDONLY | os.O_DIRECTORY) as fd:
        lock("flock", fd, "ex")
        assert is_free(lockspace, "r")
