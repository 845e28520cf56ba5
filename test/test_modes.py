"""The six mode directories: opening takes the lock in that mode, the last close drops it."""

import errno
import itertools
import os
import stat

import pytest

from locking import (COMPATIBLE, FCNTL_WAYS, WAYS, by, getlk, held, is_free, let_go, lock, start_holder, start_waiter,
                     take, taken, unlock)
from lockspacefs_test import (MODES, NOBODY, SOMEBODY, Child, as_user, errno_of, get, locks, make_lockspace, opened,
                              put, raises_errno, remove_lockspace, run_as, touch)

READERS = ["nl", "cr", "pr"]                    # what read permission is enough for
WRITERS = ["cw", "pw", "ex"]


# --- exclusion -------------------------------------------------------------

@pytest.mark.parametrize("first", MODES)
def test_modes_share_or_exclude_as_the_dlm_says(lockspace, first):
    for second in MODES:
        with taken("open", lockspace, "r", first):
            if second in COMPATIBLE[first]:
                with taken("open", lockspace, "r", second):
                    assert held(lockspace, "r") == sorted([(first, "open"), (second, "open")])
            else:
                with raises_errno(errno.EWOULDBLOCK):
                    take("open", lockspace, "r", second, wait=False)
                assert held(lockspace, "r") == [(first, "open")], second
        with taken("open", lockspace, "r", second):
            assert held(lockspace, "r") == [(second, "open")]


@pytest.mark.parametrize("first", MODES)
def test_an_open_waits_exactly_for_the_modes_it_cannot_share(lockspace, first):
    for second in MODES:
        holder = start_holder("open", lockspace, "r", first)
        if second in COMPATIBLE[first]:
            os.close(take("open", lockspace, "r", second))
            let_go(holder)
        else:
            waiter = start_waiter("open", lockspace, "r", second)
            assert not waiter.has_said(), second
            let_go(holder)
            waiter.wait_for("locked")
            let_go(waiter)
        assert locks(lockspace) == []


@pytest.mark.parametrize("mode", MODES)
def test_without_a_holder_every_mode_is_granted_at_once(lockspace, mode):
    for wait in (True, False):
        with taken("open", lockspace, "r", mode, wait=wait):
            row, = locks(lockspace)
            assert (row["resource"], row["state"], row["mode"], row["by"]) == ("r", "held", mode.upper(), "open")
            assert row["pid"] == os.getpid()
    assert locks(lockspace) == []


def test_a_refused_open_leaves_no_trace(lockspace):
    with taken("open", lockspace, "r"):
        for _ in range(5):
            assert not is_free(lockspace, "r")
        assert len(locks(lockspace)) == 1
    assert is_free(lockspace, "r")


@pytest.mark.parametrize("mode", ["pr", "ex"])
def test_inside_flock_of_the_same_file_it_is_a_lock_of_its_own(lockspace, mode):
    with taken("flock", lockspace, "r", "ex"):
        assert not is_free(lockspace, "r", mode)
    with taken("open", lockspace, "r", "ex"):
        assert not is_free(lockspace, "r", mode)


def test_looking_takes_no_lock(lockspace):
    with taken("open", lockspace, "r"):
        os.stat(lockspace / ".ex" / "r")
        os.close(os.open(lockspace / ".ex" / "r", os.O_PATH))
        os.access(lockspace / ".pr" / "r", os.R_OK)
        assert len(locks(lockspace)) == 1


# --- the last close --------------------------------------------------------

@pytest.mark.parametrize("mode", ["pr", "ex"])
def test_the_last_close_of_duplicates_drops_it(lockspace, mode):
    fd = take("open", lockspace, "r", mode)
    copies = [os.dup(fd), os.dup(fd)]
    os.close(fd)
    for copy in copies:
        assert not is_free(lockspace, "r", "ex")
        os.close(copy)
    assert is_free(lockspace, "r", "ex")


def test_the_last_close_of_a_forked_descriptor_drops_it(lockspace):
    def share(peer, fd):
        peer.say("there")
        peer.wait_for("close")
        os.close(fd)

    fd = take("open", lockspace, "r")
    child = Child(share, fd, keep=(fd,))
    child.wait_for("there")
    os.close(fd)
    assert not is_free(lockspace, "r")
    child.say("close")
    child.join()
    assert is_free(lockspace, "r")


def test_a_waiter_gets_it_at_the_last_close_only(lockspace):
    fd = take("open", lockspace, "r")
    copy = os.dup(fd)
    waiter = start_waiter("open", lockspace, "r")
    os.close(fd)
    assert not waiter.has_said()
    os.close(copy)
    waiter.wait_for("locked")


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_null_never_waits(lockspace, flags):
    with taken("open", lockspace, "r", "pr"):
        start_waiter("open", lockspace, "r")
        assert not is_free(lockspace, "r", "pr")        # behind the waiter
        with opened(lockspace / ".nl" / "r", os.O_RDONLY | flags):
            assert sorted(held(lockspace, "r")) == [("nl", "open"), ("pr", "open")]


@pytest.mark.parametrize("mode", ["nl", "cr", "cw", "pr"])
def test_two_opens_are_two_locks(lockspace, mode):
    with taken("open", lockspace, "r", mode):
        with taken("open", lockspace, "r", mode):
            assert held(lockspace, "r") == [(mode, "open")] * 2
        assert held(lockspace, "r") == [(mode, "open")]


# --- names -----------------------------------------------------------------

@pytest.mark.parametrize("mode", MODES)
def test_any_valid_name_opens_and_none_is_listed_there(lockspace, mode):
    touch(lockspace / "listed")
    for name in ("listed", "unlisted", "%2Eprofile", "x" * 64, "%09tab", "umlaut-ä"):
        with taken("open", lockspace, name, mode):
            assert held(lockspace, name) == [(mode, "open")]
            assert os.listdir(lockspace / f".{mode}") == []
    assert os.listdir(lockspace) == ["listed"]


@pytest.mark.parametrize("name, lookup, create", [
    ("%2eprofile", errno.ENOENT, errno.EINVAL),
    ("%41", errno.ENOENT, errno.EINVAL),
    ("x" * 65, errno.ENAMETOOLONG, errno.ENAMETOOLONG),
])
def test_an_invalid_name_does_not(lockspace, name, lookup, create):
    with raises_errno(lookup):
        os.open(lockspace / ".ex" / name, os.O_RDWR)
    with raises_errno(create):
        os.open(lockspace / ".ex" / name, os.O_RDWR | os.O_CREAT, 0o666)
    assert locks(lockspace) == []


@pytest.mark.parametrize("mode, file_mode", [(0o777, 0o666), (0o750, 0o640), (0o711, 0o600)])
def test_an_unlisted_name_belongs_to_whom_the_lockspace_belongs(mount, mode, file_mode):
    space = make_lockspace(mount, "owned", mode)
    os.chown(space, SOMEBODY, NOBODY)
    for directory in READERS:
        seen = os.stat(space / f".{directory}" / "unlisted")
        assert (seen.st_uid, seen.st_gid) == (SOMEBODY, NOBODY)
        assert seen.st_mode == stat.S_IFREG | file_mode
    with as_user(SOMEBODY), opened(space / ".ex" / "unlisted"):
        pass
    remove_lockspace(space)


@pytest.mark.parametrize("mode", MODES)
def test_exclusive_creation_always_finds_it_there(lockspace, mode):
    touch(lockspace / "listed")
    for name in ("listed", "unlisted"):
        with raises_errno(errno.EEXIST):
            os.open(lockspace / f".{mode}" / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        assert locks(lockspace) == []


def test_creation_without_o_excl_opens(lockspace):
    with opened(lockspace / ".ex" / "r", os.O_RDWR | os.O_CREAT):
        assert held(lockspace, "r") == [("ex", "open")]


def test_writing_a_value_lists_the_name(lockspace):
    put(lockspace / ".ex" / "r", b"rev 42")
    assert os.listdir(lockspace) == ["r"]
    assert os.listdir(lockspace / ".ex") == []


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_made_renamed_or_linked_there(lockspace, mode):
    touch(lockspace / "r")
    place = lockspace / f".{mode}"
    for call in (lambda: os.mkdir(place / "d"), lambda: os.rename(place / "r", place / "s"),
                 lambda: os.link(place / "r", place / "s"), lambda: os.symlink("r", place / "s")):
        assert errno_of(call) in (errno.EPERM, errno.EEXIST)     # any name is there already
    assert os.listdir(lockspace) == ["r"]


# --- flock and fcntl on it -------------------------------------------------

@pytest.mark.parametrize("mode", MODES)
def test_flock_on_it_is_refused(lockspace, mode):
    with taken("open", lockspace, "r", mode) as fd:
        for wanted in ("pr", "ex"):
            for wait in (False, True):
                with raises_errno(errno.EOPNOTSUPP):
                    lock("flock", fd, wanted, wait=wait)
        assert held(lockspace, "r") == [(mode, "open")]


@pytest.mark.parametrize("mode", MODES)
def test_fcntl_on_it_is_refused(lockspace, mode):
    with taken("open", lockspace, "r", mode) as fd:
        for way, wanted in itertools.product(FCNTL_WAYS, ("pr", "ex")):
            for wait in (False, True):
                with raises_errno(errno.EOPNOTSUPP):
                    lock(way, fd, wanted, wait=wait)
            with raises_errno(errno.EOPNOTSUPP):
                getlk(way, fd, wanted)
        assert held(lockspace, "r") == [(mode, "open")]


def test_closing_a_second_descriptor_keeps_it(lockspace):
    """Unlike a POSIX lock, it is the open file's."""
    touch(lockspace / "r")
    with taken("open", lockspace, "r"):
        with opened(lockspace / "r"), taken("open", lockspace, "r", "nl"):
            pass
        assert held(lockspace, "r") == [("ex", "open")]


# --- truncation ------------------------------------------------------------

@pytest.mark.parametrize("mode", ["pw", "ex"])
def test_o_trunc_clears_the_value_in_a_writers_directory(lockspace, mode):
    put(lockspace / ".ex" / "r", b"rev 42")
    with opened(lockspace / f".{mode}" / "r", os.O_RDWR | os.O_TRUNC) as fd:
        assert os.read(fd, 64) == b""
    assert get(lockspace / ".pr" / "r") == b""
    assert get(lockspace / "r") == b""


def test_a_refused_open_with_o_trunc_clears_nothing(lockspace):
    put(lockspace / ".ex" / "r", b"rev 42")
    with taken("open", lockspace, "r", "pr"):
        with raises_errno(errno.EWOULDBLOCK):
            os.open(lockspace / ".ex" / "r", os.O_RDWR | os.O_TRUNC | os.O_NONBLOCK)
    assert get(lockspace / ".pr" / "r") == b"rev 42"


def test_o_trunc_and_truncate_by_path_of_the_lock_file_change_nothing(lockspace):
    put(lockspace / ".ex" / "r", b"rev 42")
    with opened(lockspace / "r", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        lock("flock", fd, "ex")
    os.truncate(lockspace / "r", 0)
    assert get(lockspace / "r") == b"rev 42"
    assert get(lockspace / ".pr" / "r") == b"rev 42"


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_ftruncate_under_a_lock_that_allows_writing_clears_the_value(lockspace, way):
    put(lockspace / ".ex" / "r", b"rev 42")
    with taken(way, lockspace, "r", "ex") as fd:
        os.ftruncate(fd, 0)
        assert os.pread(fd, 64, 0) == b""
        unlock(way, fd)
    assert get(lockspace / ".pr" / "r") == b""


@pytest.mark.parametrize("mode", ["pw", "ex"])
def test_ftruncate_in_a_writers_directory_clears_the_value(lockspace, mode):
    put(lockspace / ".ex" / "r", b"rev 42")
    with taken("open", lockspace, "r", mode) as fd:
        os.ftruncate(fd, 0)
    assert get(lockspace / ".pr" / "r") == b""


# --- permissions -----------------------------------------------------------

def open_errno(path, flags):
    """errno of an open that does not wait, 0 if it has the lock."""
    def attempt():
        with opened(path, flags | os.O_NONBLOCK):
            pass
    return errno_of(attempt)


@pytest.mark.parametrize("mode", MODES)
def test_read_permission_is_enough_for_reading_modes_only(lockspace, mode):
    touch(lockspace / "r")
    os.chmod(lockspace / "r", 0o644)
    expected = 0 if mode in READERS else errno.EACCES
    assert run_as(NOBODY, lambda: open_errno(lockspace / f".{mode}" / "r", os.O_RDONLY)) == expected


@pytest.mark.parametrize("mode", MODES)
def test_write_permission_alone_is_enough_for_every_mode(lockspace, mode):
    touch(lockspace / "r")
    os.chmod(lockspace / "r", 0o622)
    assert run_as(NOBODY, lambda: open_errno(lockspace / f".{mode}" / "r", os.O_WRONLY)) == 0


@pytest.mark.parametrize("mode", MODES)
def test_who_may_write_takes_every_mode_read_only_too(lockspace, mode):
    touch(lockspace / "r")
    os.chmod(lockspace / "r", 0o666)
    assert run_as(NOBODY, lambda: open_errno(lockspace / f".{mode}" / "r", os.O_RDONLY)) == 0


@pytest.mark.parametrize("mode", MODES)
def test_without_permission_nothing_opens(lockspace, mode):
    touch(lockspace / "r")
    os.chmod(lockspace / "r", 0o600)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        assert run_as(NOBODY, lambda: open_errno(lockspace / f".{mode}" / "r", flags)) == errno.EACCES


# --- a holder's end --------------------------------------------------------

@pytest.mark.parametrize("mode", ["cr", "pw", "ex"])
def test_a_killed_holder_lets_go(lockspace, mode):
    for way in WAYS:
        holder = start_holder("open", lockspace, "r", mode)
        waiter = start_waiter(way, lockspace, "r", "ex")
        holder.kill()
        waiter.wait_for("locked")
        assert held(lockspace, "r") == [("ex", by(way))]
        let_go(waiter)
