"""Locks by fcntl(2): POSIX locks, which processes own, and OFD locks, which open files own."""

import errno
import itertools
import os
import sys
import threading

import pytest

from locking import (COMPATIBLE, FCNTL_WAYS, OFFSET_MAX, by, getlk, held, is_free, is_queued, let_go, lock, raw_lock,
                     start_holder, start_waiter, take, taken, try_lock, unlock, wait_until_queued)
from lockspacefs_test import MODES, NOBODY, TIMEOUT, Child, locks, opened, raises_errno, run_as, touch, wait_for_waiters

CREATE = os.O_RDWR | os.O_CREAT
UNLOCKED = "un"


def in_another_process(function):
    return Child(lambda peer: function()).join()


def try_elsewhere(way, path, mode="ex"):
    """A try-lock by another process."""
    def attempt():
        with opened(path) as fd:
            return try_lock(way, fd, mode)
    return in_another_process(attempt)


# --- what excludes what ----------------------------------------------------

@pytest.mark.parametrize("way", FCNTL_WAYS)
@pytest.mark.parametrize("other", FCNTL_WAYS)
def test_read_locks_share_and_write_locks_do_not(lockspace, way, other):
    for first, second in itertools.product(("pr", "ex"), repeat=2):
        with taken(way, lockspace, "r", first):
            assert try_elsewhere(other, lockspace / "r", second) == (first == second == "pr"), (first, second)
        assert try_elsewhere(other, lockspace / "r", second)


@pytest.mark.parametrize("way", FCNTL_WAYS)
@pytest.mark.parametrize("fcntl_mode", ["pr", "ex"])
def test_rdlck_is_pr_and_wrlck_is_ex_towards_mode_directories(lockspace, way, fcntl_mode):
    for mode in MODES:
        with taken(way, lockspace, "r", fcntl_mode):
            assert is_free(lockspace, "r", mode) == (mode in COMPATIBLE[fcntl_mode]), mode
        with taken("open", lockspace, "r", mode), opened(lockspace / "r", CREATE) as fd:
            assert try_lock(way, fd, fcntl_mode) == (mode in COMPATIBLE[fcntl_mode]), mode


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_a_refused_try_says_eagain_and_keeps_the_read_lock(lockspace, way):
    reader = start_holder(way, lockspace, "r", "pr")
    with taken(way, lockspace, "r", "pr") as fd:
        for _ in range(3):
            with raises_errno(errno.EAGAIN):
                lock(way, fd, "ex", wait=False)
        assert held(lockspace, "r") == [("pr", by(way)), ("pr", by(way))]
        let_go(reader)
        assert not is_free(lockspace, "r", "ex")
        assert try_lock(way, fd, "ex")


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_locks_change_in_place(lockspace, way):
    with opened(lockspace / "r", CREATE) as fd:
        for mode in ("pr", "ex", "ex", "pr", "pr", "ex"):
            lock(way, fd, mode)
            assert held(lockspace, "r") == [(mode, by(way))]
        unlock(way, fd)
        unlock(way, fd)
        assert locks(lockspace) == []


@pytest.mark.parametrize("way", FCNTL_WAYS)
@pytest.mark.parametrize("end", ["unlock", "close", "kill"])
def test_a_waiter_gets_it_when_the_holder_lets_go(lockspace, way, end):
    def hold(peer):
        with taken(way, lockspace, "r") as fd:
            peer.say("locked")
            peer.wait_for("unlock")
            unlock(way, fd)
            peer.say("unlocked")
            peer.wait_for("close")

    def hold_to_the_end(peer):
        with taken(way, lockspace, "r"):
            peer.say("locked")
            peer.wait_for("close")

    holder = Child(hold if end == "unlock" else hold_to_the_end)
    holder.wait_for("locked")
    waiter = start_waiter(way, lockspace, "r")
    assert not waiter.has_said()
    if end == "kill":
        holder.kill()
    else:
        holder.say(end)
    waiter.wait_for("locked")
    assert held(lockspace, "r") == [("ex", by(way))]


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_a_waiting_change_to_write_goes_on_when_the_readers_are_gone(lockspace, way):
    def upgrade(peer):
        with taken(way, lockspace, "r", "pr") as fd:
            lock(way, fd, "ex")
            peer.say("locked")
            peer.wait_for("release")

    reader = start_holder(way, lockspace, "r", "pr")
    upgrader = wait_until_queued(lockspace, Child(upgrade))
    let_go(reader)
    upgrader.wait_for("locked")
    assert held(lockspace, "r") == [("ex", by(way))]


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_write_to_read_never_waits_and_lets_the_readers_in(lockspace, way):
    with taken(way, lockspace, "r", "ex") as fd:
        reader = start_waiter(way, lockspace, "r", "pr")
        lock(way, fd, "pr")
        reader.wait_for("locked")
        writer = start_waiter(way, lockspace, "r", "ex")
        lock(way, fd, "pr")
        assert is_queued(lockspace, writer.pid)


# --- whole files only ------------------------------------------------------

@pytest.mark.parametrize("way", FCNTL_WAYS)
@pytest.mark.parametrize("part", [{}, {"length": OFFSET_MAX}, {"whence": os.SEEK_CUR}],
                         ids=["to the end", "to the largest offset", "from here"])
def test_the_whole_file_can_be_locked(lockspace, way, part):
    with opened(lockspace / "r", CREATE) as fd:
        lock(way, fd, "ex", **part)
        assert held(lockspace, "r") == [("ex", by(way))]
        assert getlk(way, fd, "ex", **part)[0] == UNLOCKED
        unlock(way, fd, **part)
        assert locks(lockspace) == []


@pytest.mark.parametrize("way", FCNTL_WAYS)
@pytest.mark.parametrize("part", [
    {"start": 1}, {"length": 1}, {"start": 1, "length": 1}, {"length": 32}, {"start": 1 << 40},
], ids=["from 1", "the first", "the second", "the value", "beyond"])
def test_a_part_of_a_file_cannot_be_locked(lockspace, way, part):
    with opened(lockspace / "r", CREATE) as fd:
        for mode, wait in itertools.product(("pr", "ex"), (False, True)):
            with raises_errno(errno.EOPNOTSUPP):
                lock(way, fd, mode, wait=wait, **part)
            assert locks(lockspace) == []


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_a_part_of_a_file_cannot_be_unlocked(lockspace, way):
    with taken(way, lockspace, "r") as fd:
        with raises_errno(errno.EOPNOTSUPP):
            unlock(way, fd, length=1)
        assert held(lockspace, "r") == [("ex", by(way))]


@pytest.mark.parametrize("way, command", [("posix", os.F_TLOCK), ("posix", os.F_LOCK)])
def test_lockf_of_the_c_library_locks_too(lockspace, way, command):
    with opened(lockspace / "r", CREATE) as fd:
        os.lockf(fd, command, 0)
        assert held(lockspace, "r") == [("ex", by(way))]
        assert not try_elsewhere(way, lockspace / "r", "pr")
        os.lockf(fd, os.F_ULOCK, 0)
        assert locks(lockspace) == []
        os.lockf(fd, os.F_TEST, 0)
        holder = start_holder(way, lockspace, "r")
        with raises_errno(errno.EAGAIN, errno.EACCES):
            os.lockf(fd, os.F_TEST, 0)
        with raises_errno(errno.EAGAIN):
            os.lockf(fd, os.F_TLOCK, 0)
        let_go(holder)


# --- who is in the way -----------------------------------------------------

@pytest.mark.parametrize("way", ["posix", "flock", "open"])
@pytest.mark.parametrize("mode", ["pr", "ex"])
def test_getlk_tells_the_holder(lockspace, way, mode):
    touch(lockspace / "r")
    holder = start_holder(way, lockspace, "r", mode)
    with opened(lockspace / "r") as fd:
        assert getlk("posix", fd, "ex") == (mode, os.SEEK_SET, 0, 0, holder.pid)
        expected = (mode, os.SEEK_SET, 0, 0, holder.pid) if mode == "ex" else UNLOCKED
        answer = getlk("posix", fd, "pr")
        assert (answer if mode == "ex" else answer[0]) == expected
        assert len(locks(lockspace)) == 1       # asking takes nothing
        let_go(holder)
        assert getlk("posix", fd, "ex")[0] == UNLOCKED


@pytest.mark.parametrize("way", ["posix", "ofd"])
def test_getlk_for_and_of_open_file_locks_has_no_pid(lockspace, way):
    """The kernel shows -1 to F_OFD_GETLK, whatever a FUSE file system says."""
    touch(lockspace / "r")
    holder = start_holder(way, lockspace, "r")
    with opened(lockspace / "r") as fd:
        assert getlk("ofd", fd, "pr") == ("ex", os.SEEK_SET, 0, 0, -1)
        if way == "ofd":
            assert getlk("posix", fd, "pr")[:4] == ("ex", os.SEEK_SET, 0, 0)
        let_go(holder)
        assert getlk("ofd", fd, "ex")[0] == UNLOCKED


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_getlk_does_not_see_the_askers_own_lock(lockspace, way):
    with taken(way, lockspace, "r") as fd:
        assert getlk(way, fd, "ex")[0] == UNLOCKED
        assert getlk(way, fd, "pr")[0] == UNLOCKED


@pytest.mark.parametrize("mode", MODES)
def test_getlk_goes_by_the_modes(lockspace, mode):
    touch(lockspace / "r")
    with taken("open", lockspace, "r", mode), opened(lockspace / "r") as fd:
        for wanted in ("pr", "ex"):
            in_the_way = mode not in COMPATIBLE[wanted]
            assert (getlk("ofd", fd, wanted)[0] != UNLOCKED) == in_the_way


# --- open modes and permissions --------------------------------------------

@pytest.mark.parametrize("way", FCNTL_WAYS)
@pytest.mark.parametrize("flags, refused, granted", [(os.O_RDONLY, "ex", "pr"), (os.O_WRONLY, "pr", "ex")])
def test_the_open_mode_must_match(lockspace, way, flags, refused, granted):
    touch(lockspace / "r")
    for wait in (False, True):
        with opened(lockspace / "r", flags) as fd:
            with raises_errno(errno.EBADF):
                lock(way, fd, refused, wait=wait)
            lock(way, fd, granted, wait=wait)


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_permission_to_read_or_to_write_is_enough_for_what_the_open_mode_allows(lockspace, way):
    def attempt(flags, mode):
        with opened(lockspace / "r", flags) as fd:
            lock(way, fd, mode, wait=False)

    touch(lockspace / "r")
    os.chmod(lockspace / "r", 0o644)
    run_as(NOBODY, lambda: attempt(os.O_RDONLY, "pr"))
    os.chmod(lockspace / "r", 0o622)
    run_as(NOBODY, lambda: attempt(os.O_WRONLY, "ex"))


# --- owners: the process ---------------------------------------------------

def test_a_process_does_not_exclude_itself(lockspace):
    with opened(lockspace / "r", CREATE) as a, opened(lockspace / "r") as b:
        lock("posix", a, "ex", wait=False)
        lock("posix", b, "ex", wait=False)
        assert held(lockspace, "r") == [("ex", "posix")]
        lock("posix", b, "pr", wait=False)
        assert held(lockspace, "r") == [("pr", "posix")]
        unlock("posix", a)
        assert locks(lockspace) == []


def test_threads_share_a_posix_lock(lockspace):
    answers = []

    def attempt():
        with opened(lockspace / "r") as fd:
            answers.append(try_lock("posix", fd, "ex"))

    with taken("posix", lockspace, "r"):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert answers == [True]


def start_thread(function):
    """A thread of this process; join() returns what it returned."""
    class Thread(threading.Thread):
        def run(self):
            self.result = function()

        def join(self, timeout=TIMEOUT):
            super().join(timeout)
            assert not self.is_alive()
            return self.result

    thread = Thread(daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("call", ["close", "unlock", "try"])
def test_a_waiting_thread_is_not_disturbed_by_what_another_does(lockspace, call):
    """Close and unlock drop what the process has; the thread goes on waiting for what it wants."""
    def use(peer):
        with opened(lockspace / "r") as fd:
            lock("posix", fd, "pr")
            thread = start_thread(lambda: raw_lock("posix", fd, "ex"))
            peer.say("waiting")
            peer.wait_for("go on")
            with opened(lockspace / "r") as another:
                if call == "unlock":
                    unlock("posix", another)
                if call == "try":
                    assert not try_lock("posix", another, "ex")
            peer.say("done")
            assert thread.join() == 0
            peer.say("locked")
            peer.wait_for("release")

    with taken("flock", lockspace, "r", "pr"):
        child = Child(use)
        child.wait_for("waiting")
        wait_for_waiters(lockspace)
        child.say("go on")
        child.wait_for("done")
        assert held(lockspace, "r") == [("pr", "flock")]
        assert len(wait_for_waiters(lockspace)) == 1
        assert not child.has_said()
    child.wait_for("locked")
    assert held(lockspace, "r") == [("ex", "posix")]


def test_two_threads_may_wait_for_one_lock(lockspace):
    def use(peer):
        with opened(lockspace / "r") as a, opened(lockspace / "r") as b:
            threads = [start_thread(lambda: raw_lock("posix", a)), start_thread(lambda: raw_lock("posix", b))]
            assert [thread.join() for thread in threads] == [0, 0]
            peer.say("locked")
            peer.wait_for("release")

    with taken("flock", lockspace, "r"):
        child = Child(use)
        wait_for_waiters(lockspace)
    child.wait_for("locked")
    assert held(lockspace, "r") == [("ex", "posix")]
    let_go(child)
    assert is_free(lockspace, "r")


def test_getlk_names_the_process_although_the_thread_has_ended(lockspace):
    def hold_by_thread(peer):
        fd = start_thread(lambda: take("posix", lockspace, "r")).join()
        peer.say("locked")
        peer.wait_for("release")
        os.close(fd)

    child = Child(hold_by_thread)
    child.wait_for("locked")
    with opened(lockspace / "r") as fd:
        assert getlk("posix", fd, "ex") == ("ex", os.SEEK_SET, 0, 0, child.pid)
    row, = locks(lockspace)
    assert row["pid"] == child.pid


def test_closing_any_descriptor_of_the_file_drops_the_process_lock(lockspace):
    with taken("posix", lockspace, "r"):
        with opened(lockspace / "r", os.O_RDONLY):
            assert not try_elsewhere("posix", lockspace / "r")
        assert try_elsewhere("posix", lockspace / "r")


def test_closing_a_duplicate_drops_the_process_lock(lockspace):
    with taken("posix", lockspace, "r") as fd:
        os.close(os.dup(fd))
        assert try_elsewhere("posix", lockspace / "r")


def test_closing_another_file_keeps_the_process_lock(lockspace):
    with taken("posix", lockspace, "r"):
        touch(lockspace / "s")
        assert not try_elsewhere("posix", lockspace / "r")


def test_a_forked_process_does_not_have_the_posix_lock(lockspace):
    def attempt(peer, fd):
        assert not try_lock("posix", fd, "ex")
        assert not try_lock("posix", fd, "pr")
        os.close(fd)                            # its close does not touch its parent's lock either

    with taken("posix", lockspace, "r") as fd:
        Child(attempt, fd, keep=(fd,)).join()
        assert not try_elsewhere("posix", lockspace / "r")
        assert held(lockspace, "r") == [("ex", "posix")]


def test_a_posix_lock_outlives_exec(lockspace):
    def replace(peer, fd, channel):
        os.set_inheritable(fd, True)
        os.set_inheritable(channel, True)
        lock("posix", fd, "ex")
        os.execv(sys.executable, [sys.executable, "-c",
                                  f"import os, signal; os.write({channel}, b'running'); signal.pause()"])

    touch(lockspace / "r")
    reader, writer = os.pipe()
    with opened(lockspace / "r") as fd:
        child = Child(replace, fd, writer, keep=(fd, writer))
    assert os.read(reader, 7) == b"running"
    os.close(reader)
    os.close(writer)
    assert held(lockspace, "r") == [("ex", "posix")]
    assert not try_elsewhere("posix", lockspace / "r")
    child.kill()
    assert try_elsewhere("posix", lockspace / "r")


# --- owners: the open file -------------------------------------------------

def test_open_files_of_one_process_exclude_each_other(lockspace):
    with opened(lockspace / "r", CREATE) as a, opened(lockspace / "r") as b:
        assert try_lock("ofd", a, "ex")
        assert not try_lock("ofd", b, "pr")
        assert not try_lock("posix", b, "pr")
        lock("ofd", a, "pr")
        assert try_lock("ofd", b, "pr")


def test_closing_another_open_file_keeps_an_ofd_lock(lockspace):
    with taken("ofd", lockspace, "r") as fd:
        with opened(lockspace / "r", os.O_RDONLY):
            pass
        os.close(os.dup(fd))
        assert held(lockspace, "r") == [("ex", by("ofd"))]
        assert not try_elsewhere("ofd", lockspace / "r")


def test_a_forked_process_shares_an_ofd_lock(lockspace):
    def share(peer, fd):
        assert try_lock("ofd", fd, "ex")
        peer.say("shared")
        peer.wait_for("close")
        os.close(fd)

    fd = take("ofd", lockspace, "r")
    child = Child(share, fd, keep=(fd,))
    child.wait_for("shared")
    os.close(fd)
    assert not is_free(lockspace, "r")
    child.say("close")
    child.join()
    assert is_free(lockspace, "r")


def test_a_forked_process_can_drop_an_ofd_lock_for_both(lockspace):
    with taken("ofd", lockspace, "r") as fd:
        Child(lambda peer: unlock("ofd", fd), keep=(fd,)).join()
        assert is_free(lockspace, "r")


@pytest.mark.parametrize("way", FCNTL_WAYS)
def test_close_without_unlock_drops_the_lock_every_time(lockspace, way):
    for _ in range(200):
        with taken(way, lockspace, "r"):
            pass
        with taken("flock", lockspace, "r"):
            pass
    assert locks(lockspace) == []
