"""The end of a lockspace, or of the daemon, under who holds and who waits."""

import errno
import os
import select
import signal

import pytest

from locking import (PROMPT, WAYS, errno_name, held, is_free, is_queued, let_go, lock, raw_lock, raw_take,
                     start_holder, start_waiter, take, taken, unlock, wait_until_queued)
from lockspacefs_test import (MODES, Child, errno_of, get, is_mounted, locks, make_again, make_lockspace, opened, put, raises_errno,
                              touch, umount, wait_for_poll, wait_until)

GONE = select.POLLERR | select.POLLHUP


def force(lockspace):
    put(lockspace / ".force", b"1")


def remove_by_force(lockspace):
    force(lockspace)
    os.rmdir(lockspace)


def table(lockspace):
    """`.locks` without what passes: the seconds."""
    return sorted((row["resource"], row["state"], row["mode"], row["wanted"], row["pid"], row["by"])
                  for row in locks(lockspace))


def upgrade(peer, way, lockspace):
    """A child: shared, then waits for exclusive; the errno of that."""
    with taken(way, lockspace, "r", "pr") as fd:
        return raw_lock(way, fd, "ex")


# --- rmdir without force ---------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_a_lock_of_any_kind_stands_in_the_way(lockspace, way):
    for mode in MODES if way == "open" else ("pr", "ex"):
        with taken(way, lockspace, "r", mode):
            before = table(lockspace)
            assert len(before) == 1
            for _ in range(3):
                with raises_errno(errno.EBUSY):
                    os.rmdir(lockspace)
            assert table(lockspace) == before
    os.rmdir(lockspace)
    assert not lockspace.exists()


@pytest.mark.parametrize("way", WAYS)
def test_ebusy_loses_no_lock_no_waiter_and_no_value(lockspace, way):
    put(lockspace / ".ex" / "value", b"rev 42")
    touch(lockspace / "file")
    with taken(way, lockspace, "r") as fd, taken("open", lockspace, "written") as written:
        os.write(written, b"rev 43")
        waiters = [start_waiter(other, lockspace, "r") for other in WAYS]
        before = table(lockspace)
        assert len(before) == 2 + len(WAYS)
        for _ in range(3):
            with raises_errno(errno.EBUSY):
                os.rmdir(lockspace)
        assert table(lockspace) == before
        assert sorted(os.listdir(lockspace)) == ["file", "r", "value", "written"]
        assert get(lockspace / ".pr" / "value") == b"rev 42"
        assert os.pread(written, 64, 0) == b"rev 43"
        assert wait_for_poll(fd, select.POLLPRI) == select.POLLPRI
        assert not any(waiter.has_said() for waiter in waiters)
        assert is_free(lockspace, "new", way=way)
    for waiter in waiters:
        waiter.wait_for("locked")
        let_go(waiter)
    assert get(lockspace / ".pr" / "written") == b"rev 43"


def test_a_change_that_waits_survives_ebusy(lockspace):
    with taken("flock", lockspace, "r", "pr"):
        child = wait_until_queued(lockspace, Child(upgrade, "flock", lockspace))
        with raises_errno(errno.EBUSY):
            os.rmdir(lockspace)
        assert is_queued(lockspace, child.pid)
    assert child.join() == 0


def test_files_and_values_that_nobody_locks_go_with_it(lockspace):
    for i in range(20):
        put(lockspace / ".ex" / f"value{i}", b"rev %d" % i)
        touch(lockspace / f"file{i}")
    os.rmdir(lockspace)
    assert not lockspace.exists()


def test_nothing_of_it_is_found_in_the_next_one_of_that_name(lockspace, engine):
    put(lockspace / ".ex" / "value", b"rev 42")
    os.rmdir(lockspace)
    make_again(lockspace, engine)
    assert os.listdir(lockspace) == []
    assert get(lockspace / ".pr" / "value") == b""


def test_node_ids_are_never_used_again(lockspace, engine):
    seen = set()
    for _ in range(5):
        touch(lockspace / "r")
        ids = {os.stat(lockspace).st_ino, os.stat(lockspace / "r").st_ino, os.stat(lockspace / ".ex").st_ino}
        assert len(ids) == 3 and not ids & seen
        seen |= ids
        os.rmdir(lockspace)
        make_again(lockspace, engine)


# --- open files without a lock ---------------------------------------------

CALLS = {
    "flock": lambda fd: lock("flock", fd, "ex"),
    "flock, try": lambda fd: lock("flock", fd, "pr", wait=False),
    "posix": lambda fd: lock("posix", fd, "ex"),
    "ofd": lambda fd: lock("ofd", fd, "ex"),
    "read": lambda fd: os.pread(fd, 64, 0),
    "write": lambda fd: os.pwrite(fd, b"x", 0),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_open_file_without_a_lock_is_not_in_the_way_but_stale(lockspace, engine, call):
    with opened(lockspace / "r", os.O_RDWR | os.O_CREAT) as fd:
        os.rmdir(lockspace)
        with raises_errno(errno.ESTALE):
            CALLS[call](fd)
        make_again(lockspace, engine)
        with raises_errno(errno.ESTALE):
            CALLS[call](fd)
        assert locks(lockspace) == []


def test_a_file_that_was_unlocked_again_is_not_in_the_way(lockspace):
    with opened(lockspace / "r", os.O_RDWR | os.O_CREAT) as fd:
        for way in ("flock", "posix", "ofd"):
            lock(way, fd, "ex")
            unlock(way, fd)
        os.rmdir(lockspace)


# --- rmdir by force --------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_force_tells_the_waiters_at_once(lockspace, way):
    """ESTALE; an open is looked up again by the kernel, and finds nothing."""
    with taken("flock", lockspace, "r"):
        children = [wait_until_queued(lockspace, Child(lambda peer: raw_take(way, lockspace, "r"))) for _ in range(3)]
        remove_by_force(lockspace)
        for child in children:
            assert errno_name(child.join(PROMPT)) == ("ENOENT" if way == "open" else "ESTALE")
    assert not lockspace.exists()


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_force_tells_who_waits_for_a_change(lockspace, way):
    with taken("flock", lockspace, "r", "pr"):
        child = wait_until_queued(lockspace, Child(upgrade, way, lockspace))
        remove_by_force(lockspace)
        assert child.join() == errno.ESTALE


@pytest.mark.parametrize("way", WAYS)
def test_force_tells_the_holders_by_poll(lockspace, way):
    with taken(way, lockspace, "r", "pr") as fd, taken(way, lockspace, "s", "ex") as other:
        remove_by_force(lockspace)
        for held_fd in (fd, other):
            assert wait_for_poll(held_fd, select.POLLPRI) & GONE == GONE


@pytest.mark.parametrize("way", WAYS)
def test_force_wakes_a_holder_who_polls(lockspace, way):
    def watch(peer):
        with taken(way, lockspace, "r") as fd, select.epoll() as epoll:
            epoll.register(fd, select.EPOLLPRI)
            assert epoll.poll(0) == []
            peer.say("polling")
            return wait_for_poll(fd, select.POLLPRI), epoll.poll(PROMPT)[0][1]

    child = Child(watch)
    child.wait_for("polling")
    remove_by_force(lockspace)
    assert [events & GONE for events in child.join()] == [GONE, GONE]


@pytest.mark.parametrize("call", [*CALLS, "unlock"])
def test_force_makes_the_next_call_of_a_holder_stale(lockspace, call):
    with taken("flock", lockspace, "r") as fd:
        remove_by_force(lockspace)
        with raises_errno(errno.ESTALE):
            {**CALLS, "unlock": lambda fd: unlock("flock", fd)}[call](fd)


@pytest.mark.parametrize("call", ["read", "write"])
def test_so_it_does_in_a_mode_directory(lockspace, call):
    with taken("open", lockspace, "r") as fd:
        os.pwrite(fd, b"rev 42", 0)
        remove_by_force(lockspace)
        with raises_errno(errno.ESTALE):
            CALLS[call](fd)


def test_force_by_xattr_is_the_same_switch(lockspace):
    with taken("flock", lockspace, "r"):
        os.setxattr(lockspace, "user.force", b"1")
        assert get(lockspace / ".force").strip() == b"1"
        put(lockspace / ".force", b"0")
        assert os.getxattr(lockspace, "user.force").strip() == b"0"
        with raises_errno(errno.EBUSY):
            os.rmdir(lockspace)
        os.setxattr(lockspace, "user.force", b"1")
        os.rmdir(lockspace)


def test_closing_what_is_gone_is_fine(lockspace, engine):
    fds = [take(way, lockspace, f"r-{way}") for way in WAYS]
    remove_by_force(lockspace)
    make_again(lockspace, engine)
    with taken("open", lockspace, "r-flock"):
        for fd in fds:
            os.close(fd)
        assert held(lockspace, "r-flock") == [("ex", "open")]


def test_an_old_lock_means_nothing_in_a_new_lockspace_of_that_name(lockspace, engine):
    holder = start_holder("flock", lockspace, "r")
    remove_by_force(lockspace)
    make_again(lockspace, engine)
    assert locks(lockspace) == []
    with taken("flock", lockspace, "r") as fd:
        let_go(holder)
        assert held(lockspace, "r") == [("ex", "flock")]
        assert wait_for_poll(fd, select.POLLPRI, 0) == 0


def test_force_leaves_other_lockspaces_alone(lockspace, mount):
    other = make_lockspace(mount, "other")
    with taken("flock", other, "r") as fd:
        waiter = start_waiter("flock", other, "r")
        with taken("flock", lockspace, "r"):
            remove_by_force(lockspace)
        assert is_queued(other, waiter.pid)
        unlock("flock", fd)
        waiter.wait_for("locked")
        let_go(waiter)
    os.rmdir(other)


def test_force_tells_all_who_wait_on_one_open_file(lockspace):
    with taken("flock", lockspace, "r"):
        fd = os.open(lockspace / "r", os.O_RDWR | os.O_CLOEXEC)
        children = [wait_until_queued(lockspace, Child(lambda peer: raw_lock("flock", fd), keep=(fd,)))]
        children += [Child(lambda peer: raw_lock("flock", fd), keep=(fd,)) for _ in range(3)]
        os.close(fd)
        remove_by_force(lockspace)
        assert [errno_name(child.join()) for child in children] == ["ESTALE"] * 4


def test_force_under_hundreds(lockspace, engine):
    count = 300 if engine == "local" else 30    # a guest is slow, and has one processor
    with taken("flock", lockspace, "r"):
        children = [Child(lambda peer: raw_take("flock", lockspace, "r")) for _ in range(count)]
        for child in children:
            wait_until_queued(lockspace, child)
        remove_by_force(lockspace)
        assert {errno_name(child.join()) for child in children} == {"ESTALE"}


# --- the end of the daemon -------------------------------------------------

@pytest.fixture
def ending(make_daemon):
    """A daemon that is to end in the test, and a lockspace in it."""
    daemon = make_daemon()
    return daemon, make_lockspace(daemon.mountpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_to_the_daemon_sends_waiters_away_and_keeps_every_lock(ending, way, number):
    daemon, lockspace = ending
    with taken(way, lockspace, "r") as fd, opened(lockspace / "r", os.O_RDWR | os.O_CREAT) as other:
        children = [Child(lambda peer, waiting: raw_take(waiting, lockspace, "r"), waiting) for waiting in WAYS]
        for child in children:
            wait_until_queued(lockspace, child)
        daemon.signal(number)
        for child in children:
            assert errno_name(child.join()) == "ESHUTDOWN"
        assert wait_for_poll(fd, select.POLLPRI) & select.POLLHUP
        wait_until(lambda: not is_mounted(daemon.mountpoint))
        assert errno_of(lambda: lock("flock", other, "ex", wait=False)) in (errno.EWOULDBLOCK, errno.ESHUTDOWN)
        assert daemon.process.poll() is None
    assert daemon.wait() == 0


def test_a_holder_can_go_on_to_its_end_after_the_signal(ending):
    daemon, lockspace = ending
    with taken("open", lockspace, "r") as fd:
        os.write(fd, b"rev 42")
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: not is_mounted(daemon.mountpoint))
        assert os.pread(fd, 64, 0) == b"rev 42"
        assert os.pwrite(fd, b"rev 43", 0) == 6
        os.fsync(fd)
        assert os.pread(fd, 64, 0) == b"rev 43"
    assert daemon.wait() == 0


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_who_waits_for_a_change_is_sent_away_with_the_lock_he_had(ending, way):
    daemon, lockspace = ending

    def change(peer):
        with taken(way, lockspace, "r", "pr") as fd:
            peer.say(errno_name(raw_lock(way, fd, "ex")))
            peer.wait_for("release")

    with opened(lockspace / "r", os.O_RDWR | os.O_CREAT) as other:
        with taken("flock", lockspace, "r", "pr"):
            child = wait_until_queued(lockspace, Child(change))
            daemon.signal(signal.SIGTERM)
            child.wait_for("ESHUTDOWN")
        assert errno_of(lambda: lock("flock", other, "ex", wait=False)) in (errno.EWOULDBLOCK, errno.ESHUTDOWN)
        let_go(child)
    assert daemon.wait() == 0


def test_a_holder_who_polls_is_woken_by_the_signal(ending):
    daemon, lockspace = ending

    def watch(peer):
        with taken("flock", lockspace, "r") as fd:
            assert wait_for_poll(fd, select.POLLPRI, 0) == 0
            peer.say("polling")
            return wait_for_poll(fd, select.POLLPRI)

    child = Child(watch)
    child.wait_for("polling")
    daemon.signal(signal.SIGTERM)
    assert child.join() & select.POLLHUP
    assert daemon.wait() == 0


def test_it_ends_at_the_last_close(ending):
    daemon, lockspace = ending
    fds = [take("flock", lockspace, "r", "pr") for _ in range(3)]
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: not is_mounted(daemon.mountpoint))
    for fd in fds:
        assert daemon.process.poll() is None
        os.close(fd)
    assert daemon.wait() == 0


def test_a_second_signal_ends_it_at_once(ending):
    daemon, lockspace = ending
    fd = take("flock", lockspace, "r")
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: not is_mounted(daemon.mountpoint))
    assert daemon.process.poll() is None
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    with raises_errno(errno.ENOTCONN):
        lock("flock", fd, "ex")
    with raises_errno(errno.ENOTCONN):
        os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_open_files_one_signal_is_enough(ending, number):
    daemon, lockspace = ending
    touch(lockspace / "r")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not is_mounted(daemon.mountpoint)


def test_a_lazy_umount_leaves_holders_and_waiters_as_they_are(ending):
    daemon, lockspace = ending
    with opened(lockspace, os.O_RDONLY | os.O_DIRECTORY) as directory:
        holder = start_holder("flock", lockspace, "r")
        waiter = start_waiter("flock", lockspace, "r")
        umount(daemon.mountpoint, lazily=True)
        with opened("r", os.O_RDWR, dir_fd=directory) as fd, raises_errno(errno.EWOULDBLOCK):
            lock("flock", fd, "pr", wait=False)
        assert not waiter.has_said()
        let_go(holder)
        waiter.wait_for("locked")
        let_go(waiter)
        assert daemon.process.poll() is None
    assert daemon.wait() == 0
