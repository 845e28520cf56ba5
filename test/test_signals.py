"""Signals to who waits: EINTR at once, SA_RESTART, time-outs, stops, and kill -9."""

import errno
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from locking import (PROMPT, WAYS, by, errno_name, held, is_free, is_queued, let_go, lock, raw_lock, raw_open,
                     raw_take, start_holder, start_waiter, take, taken, try_lock, unlock, wait_until_queued)
from lockspacefs_test import (Child, end_children, errno_of, get, locks, opened, process_state, put, touch,
                              wait_for_waiters, wait_until, waiters)

RESTARTING_WAYS = ["flock", "posix", "ofd"]     # a waiting open always says EINTR


def is_pending(pid, number):
    """Has the signal been sent but not been delivered yet?"""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        fields = dict(line.split(":\t") for line in status)
    return bool((int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)) & 1 << number - 1)


def wait_interruptibly(peer, way, lockspace, mode, restart):
    """A child: waits once, and says the errno (0: it has the lock)."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, not restart)
    peer.say("ready")
    peer.say(errno_name(raw_take(way, lockspace, "r", mode)))
    peer.wait_for("end")


def start_interruptible(way, lockspace, mode="ex", restart=False):
    child = Child(wait_interruptibly, way, lockspace, mode, restart)
    child.wait_for("ready")
    return wait_until_queued(lockspace, child)


# --- a handler -------------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["pr", "ex"])
def test_a_signal_ends_a_wait_at_once(lockspace, way, mode):
    with taken("flock", lockspace, "r"):
        child = start_interruptible(way, lockspace, mode)
        start = time.monotonic()
        child.signal(signal.SIGUSR1)
        child.wait_for("EINTR")
        assert time.monotonic() - start < PROMPT
        wait_until(lambda: not waiters(lockspace))
    assert is_free(lockspace, "r")


@pytest.mark.parametrize("way", RESTARTING_WAYS)
def test_under_sa_restart_the_wait_goes_on(lockspace, way):
    with taken("flock", lockspace, "r"):
        child = start_interruptible(way, lockspace, restart=True)
        for _ in range(5):
            child.signal(signal.SIGUSR1)
            wait_until(lambda: not is_pending(child.pid, signal.SIGUSR1))
            wait_until_queued(lockspace, child)
        assert not child.has_said()
        assert len(waiters(lockspace)) == 1
    child.wait_for(0)
    assert held(lockspace, "r") == [("ex", by(way))]


@pytest.mark.parametrize("mode", ["pr", "ex"])
def test_a_waiting_open_says_eintr_even_under_sa_restart(lockspace, mode):
    with taken("flock", lockspace, "r"):
        child = start_interruptible("open", lockspace, mode, restart=True)
        child.signal(signal.SIGUSR1)
        child.wait_for("EINTR")


@pytest.mark.parametrize("way", WAYS)
def test_who_was_interrupted_is_no_longer_in_the_way(lockspace, way):
    """A reader behind an interrupted writer gets in beside the reader who is there."""
    with taken("flock", lockspace, "r", "pr"):
        writer = start_interruptible(way, lockspace, "ex")
        reader = start_waiter(way, lockspace, "r", "pr")
        writer.signal(signal.SIGUSR1)
        writer.wait_for("EINTR")
        reader.wait_for("locked")
        assert is_free(lockspace, "r", "pr")


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_caller_can_try_again(lockspace, way):
    def wait_twice(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        peer.say(errno_name(raw_take(way, lockspace, "r")))
        peer.say(errno_name(raw_take(way, lockspace, "r")))
        peer.wait_for("end")

    with taken("flock", lockspace, "r"):
        child = wait_until_queued(lockspace, Child(wait_twice))
        child.signal(signal.SIGUSR1)
        child.wait_for("EINTR")
        wait_until_queued(lockspace, child)
    child.wait_for(0)
    assert held(lockspace, "r") == [("ex", by(way))]


def test_only_the_thread_that_is_meant_is_interrupted(lockspace):
    def wait_in_two_threads(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        answers = [None, None]

        def wait(i):
            with opened(lockspace / "r") as fd:
                answers[i] = raw_lock("flock", fd)

        threads = [threading.Thread(target=wait, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        peer.wait_for("interrupt")
        signal.pthread_kill(threads[0].ident, signal.SIGUSR1)
        threads[0].join()
        peer.say(answers[:])
        threads[1].join()
        return answers

    with taken("flock", lockspace, "r"):
        child = Child(wait_in_two_threads)
        wait_for_waiters(lockspace, 2)
        child.say("interrupt")
        child.wait_for([errno.EINTR, None])
        assert len(wait_until(lambda: len(rows := waiters(lockspace)) == 1 and rows)) == 1
    assert child.join() == [errno.EINTR, 0]


@pytest.mark.parametrize("way", ["posix", "ofd"])
def test_an_interrupted_change_keeps_the_read_lock(lockspace, way):
    def upgrade(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        with taken(way, lockspace, "r", "pr") as fd:
            peer.say(errno_name(raw_lock(way, fd, "ex")))
            peer.wait_for("again")
            lock(way, fd, "ex")

    with taken("flock", lockspace, "r", "pr"):
        child = wait_until_queued(lockspace, Child(upgrade))
        child.signal(signal.SIGUSR1)
        child.wait_for("EINTR")
        wait_until(lambda: held(lockspace, "r") == [("pr", "flock"), ("pr", by(way))])
        assert not waiters(lockspace)
    assert not is_free(lockspace, "r", "ex")
    child.say("again")
    child.join()


def test_an_interrupted_flock_change_has_the_shared_lock_or_none(lockspace):
    """flock(2) allows both; what it has is what others see, and it can go on from there."""
    def upgrade(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        with taken("flock", lockspace, "r", "pr") as fd:
            peer.say(errno_name(raw_lock("flock", fd, "ex")))
            peer.wait_for("again")
            lock("flock", fd, "ex")

    with taken("flock", lockspace, "r", "pr"):
        child = wait_until_queued(lockspace, Child(upgrade))
        child.signal(signal.SIGUSR1)
        child.wait_for("EINTR")
        wait_until(lambda: not waiters(lockspace))
        left = held(lockspace, "r")
        assert left in ([("pr", "flock")], [("pr", "flock")] * 2)
        assert is_free(lockspace, "r", "pr")
    assert is_free(lockspace, "r", "ex") == (len(left) == 1)
    child.say("again")
    child.join()


def unlock_and_signal(fd, child, signal_first):
    """At the same moment, but for the order."""
    if signal_first:
        child.signal(signal.SIGUSR1)
    unlock("flock", fd)
    if not signal_first:
        child.signal(signal.SIGUSR1)


@pytest.mark.parametrize("way", WAYS)
def test_a_grant_that_crosses_the_signal_is_not_lost(lockspace, way):
    """Unlock and signal at the same moment: whatever the caller is told, the truth follows."""
    def wait_again_and_again(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        while peer.wait_for() == "wait":
            if way == "open":
                fd = raw_open(lockspace / ".ex" / "r")
                answer = max(0, -fd)
            else:
                fd = os.open(lockspace / "r", os.O_RDWR | os.O_CREAT)
                answer = raw_lock(way, fd)
            if fd >= 0:
                os.close(fd)
            peer.say(answer)

    child = Child(wait_again_and_again)
    answers = set()
    for i in range(100):
        with taken("flock", lockspace, "r") as fd:
            child.say("wait")
            wait_until_queued(lockspace, child)
            unlock_and_signal(fd, child, signal_first=i % 2)
            answers.add(child.wait_for())
            wait_until(lambda: try_lock("flock", fd))
        wait_until(lambda: not locks(lockspace))
    assert answers <= {0, errno.EINTR}
    child.say("end")
    child.join()


@pytest.mark.parametrize("way", ["posix", "ofd"])
def test_a_change_that_crosses_the_signal_is_made_or_not(lockspace, way):
    """Who is told EINTR has what he had, and is in no reader's way."""
    def change_again_and_again(peer):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        while peer.wait_for() == "change":
            with taken(way, lockspace, "r", "pr") as fd:
                peer.say(raw_lock(way, fd))
                peer.wait_for("close")
            peer.say("closed")

    child = Child(change_again_and_again)
    for i in range(50):
        with taken("flock", lockspace, "r", "pr") as fd:
            child.say("change")
            wait_until_queued(lockspace, child)
            unlock_and_signal(fd, child, signal_first=i % 2)
            answer = child.wait_for()
            assert answer in (0, errno.EINTR)
            wait_until(lambda: not waiters(lockspace))
            assert held(lockspace, "r") == [("ex" if answer == 0 else "pr", by(way))]
        child.say("close")
        child.wait_for("closed")
    child.say("end")
    child.join()


# --- time-outs -------------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_an_alarm_is_a_timeout(lockspace, way):
    def wait_a_little(peer):
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)          # the first may come before it waits
        return raw_take(way, lockspace, "r")

    with taken("flock", lockspace, "r"):
        start = time.monotonic()
        assert Child(wait_a_little).join() == errno.EINTR
        assert 0.2 <= time.monotonic() - start < 0.2 + PROMPT
        wait_until(lambda: not waiters(lockspace))


@pytest.mark.parametrize("way", WAYS)
def test_python_can_time_out_by_an_exception(lockspace, way):
    class TimedOut(Exception):
        pass

    def alarm(number, frame):
        raise TimedOut

    def wait_a_little(peer):
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            take(way, lockspace, "r")
        except TimedOut:
            return "timed out"
        return "locked"

    with taken("flock", lockspace, "r"):
        assert Child(wait_a_little).join() == "timed out"
    assert is_free(lockspace, "r")


# --- stop and continue -----------------------------------------------------

@pytest.mark.parametrize("way", RESTARTING_WAYS)
def test_who_was_stopped_waits_on_when_continued(lockspace, way):
    with taken("flock", lockspace, "r"):
        child = start_interruptible(way, lockspace)
        for _ in range(3):
            child.stop()
            wait_until(lambda: process_state(child.pid) == "T")
            child.resume()
            wait_until(lambda: process_state(child.pid) == "S")
            wait_until_queued(lockspace, child)
        assert not child.has_said()
    child.wait_for(0)
    assert held(lockspace, "r") == [("ex", by(way))]


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_waiter_does_not_get_the_lock_in_its_sleep(lockspace, way):
    """It left the queue, so the others go on without it."""
    with taken("flock", lockspace, "r"):
        child = start_interruptible(way, lockspace)
        child.stop()
        wait_until(lambda: process_state(child.pid) == "T")
        wait_until(lambda: not waiters(lockspace))
    assert is_free(lockspace, "r")
    child.resume()
    child.wait_for("EINTR" if way == "open" else 0)


def test_a_waiting_open_says_eintr_after_a_stop(lockspace):
    with taken("flock", lockspace, "r"):
        child = start_interruptible("open", lockspace, restart=True)
        child.stop()
        wait_until(lambda: process_state(child.pid) == "T")
        child.resume()
        child.wait_for("EINTR")


@pytest.fixture
def freezer(directory):
    """A control group whose processes can be frozen."""
    place = directory / "cgroup"
    place.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", place], check=True)
    group = place / directory.name              # there is one tree of groups, for those with pids of their own, too
    group.mkdir()
    yield group
    put(group / "cgroup.freeze", b"0")
    end_children()
    wait_until(lambda: errno_of(os.rmdir, group) == 0)
    subprocess.run(["umount", place], check=True)
    place.rmdir()


@pytest.mark.parametrize("way", WAYS)
def test_after_a_freeze_open_says_eintr_and_the_others_wait_on(freezer, lockspace, way):
    with taken("flock", lockspace, "r"):
        child = start_interruptible(way, lockspace, restart=True)
        put(freezer / "cgroup.procs", b"%d" % child.pid)
        put(freezer / "cgroup.freeze", b"1")
        wait_until(lambda: b"frozen 1" in get(freezer / "cgroup.events"))
        wait_until(lambda: not waiters(lockspace))
        put(freezer / "cgroup.freeze", b"0")
        if way == "open":
            child.wait_for("EINTR")
        else:
            wait_until_queued(lockspace, child)
            assert not child.has_said()
    if way != "open":
        child.wait_for(0)


def test_a_stopped_holder_keeps_its_lock(lockspace):
    for way in WAYS:
        holder = start_holder(way, lockspace, "r")
        holder.stop()
        wait_until(lambda: process_state(holder.pid) == "T")
        assert not is_free(lockspace, "r")
        holder.resume()
        let_go(holder)
        assert is_free(lockspace, "r")


# --- kill -9 ---------------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_a_killed_holder_lets_go_of_all_it_held(lockspace, way):
    def hold_several(peer):
        fds = [take(way, lockspace, f"r{i}") for i in range(20)]
        peer.say("locked")
        peer.wait_for(f"the end of {fds}")

    holder = Child(hold_several)
    holder.wait_for("locked")
    queue = [start_waiter(way, lockspace, f"r{i}") for i in (0, 19)]
    start = time.monotonic()
    holder.kill()
    for waiter in queue:
        waiter.wait_for("locked")
    assert time.monotonic() - start < PROMPT
    wait_until(lambda: len(locks(lockspace)) == 2)


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_waiter_is_gone_at_once(lockspace, way):
    with taken("flock", lockspace, "r"):
        children = [start_waiter(way, lockspace, "r") for _ in range(3)]
        start = time.monotonic()
        children[1].kill()
        assert time.monotonic() - start < PROMPT
        wait_until(lambda: not is_queued(lockspace, children[1].pid))
    for child in (children[0], children[2]):
        child.wait_for("locked")
        let_go(child)
    assert locks(lockspace) == []


def test_a_killed_waiter_lets_those_behind_it_in(lockspace):
    with taken("flock", lockspace, "r", "pr"):
        writer = start_waiter("flock", lockspace, "r", "ex")
        reader = start_waiter("flock", lockspace, "r", "pr")
        writer.kill()
        reader.wait_for("locked")


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_who_is_killed_while_it_changes_its_lock_loses_both(lockspace, way):
    def upgrade(peer):
        with taken(way, lockspace, "r", "pr") as fd:
            lock(way, fd, "ex")

    with taken("flock", lockspace, "r", "pr"):
        child = wait_until_queued(lockspace, Child(upgrade))
        child.kill()
        wait_until(lambda: held(lockspace, "r") == [("pr", "flock")] and not waiters(lockspace))
    wait_until(lambda: is_free(lockspace, "r", "ex"), what="the end of what is taken back behind his back")


@pytest.mark.parametrize("way", WAYS)
def test_nobody_ever_waits_in_a_state_that_cannot_be_killed(lockspace, way):
    with taken("flock", lockspace, "r"):
        children = [start_waiter(way, lockspace, "r") for _ in range(20)]
        wait_until(lambda: {process_state(child.pid) for child in children} == {"S"}, 5)
        start = time.monotonic()
        for child in children:
            child.signal(signal.SIGKILL)
        for child in children:
            child.kill()
        assert time.monotonic() - start < PROMPT
        wait_until(lambda: not waiters(lockspace))


def test_whoever_is_killed_or_interrupted_nobody_else_is_let_in_and_nothing_is_left(lockspace, directory, engine):
    """Many processes, all ways, one resource; the one inside has its pid in a file that nobody else may touch."""
    inside = directory / "inside"
    touch(inside)

    def run(peer, seed):
        chance = random.Random(seed)
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        peer.say("ready")
        while True:
            way = chance.choice(WAYS)
            if way == "open":
                fd = raw_open(lockspace / ".ex" / "r")
            else:
                fd = os.open(lockspace / "r", os.O_RDWR | os.O_CREAT)
                is_change = way == "flock" and chance.random() < 0.3
                if is_change and raw_lock(way, fd, "pr") != 0 or raw_lock(way, fd) != 0:
                    os.close(fd)
                    continue
            if fd < 0:
                continue
            put(inside, b"%d" % os.getpid())
            os.sched_yield()
            assert int(get(inside)) == os.getpid()
            os.close(fd)

    def start(seed):
        child = Child(run, seed)
        child.wait_for("ready")
        return child

    chance = random.Random(1)
    children = [start(seed) for seed in range(12)]
    for seed in range(200 if engine == "local" else 50):
        victim = chance.randrange(len(children))
        if chance.random() < 0.5:
            children[victim].kill()
            children[victim] = start(100 + seed)
        else:
            children[victim].signal(signal.SIGUSR1)
        os.close(take(chance.choice(WAYS), lockspace, "r", chance.choice(["pr", "ex"])))
        for child in children:
            if child.has_said():
                child.join()                    # raises what is wrong
    for child in children:
        child.kill()
    wait_until(lambda: not locks(lockspace))
    assert is_free(lockspace, "r")


def test_close_does_not_wait_while_others_do(lockspace):
    def use(peer):
        fds = [take("flock", lockspace, "s", "pr") for _ in range(10)]
        with opened(lockspace / "r") as fd:
            peer.say("opened")
            peer.wait_for("close")
            start = time.monotonic()
            for held_fd in fds:
                os.close(held_fd)
            assert not try_lock("flock", fd)
        assert time.monotonic() - start < PROMPT

    with taken("flock", lockspace, "r"):
        child = Child(use)
        child.wait_for("opened")
        queue = [start_waiter(way, lockspace, "r") for way in WAYS]
        child.say("close")
        child.join()
        assert all(is_queued(lockspace, waiter.pid) for waiter in queue)
