"""Values: 32 bytes that live with a resource and are the content of its file."""

import ctypes
import errno
import fcntl
import mmap
import os
import re
import signal
import struct
import subprocess

import pytest

from lockspacefs_test import (MODES, NOBODY, SOMEBODY, TIMEOUT, VALUE_LEN, Child, get, locks, opened, put,
                              raises_errno, run_as, shell, status, touch, wait_for_waiters, wait_until)
from locking import wait_for_a_signal, wait_until_queued

F_OFD_SETLK = 37
WRITERS = ["pw", "ex"]
NO_WRITERS = ["nl", "cr", "cw", "pr"]

libc = ctypes.CDLL(None, use_errno=True)


def write_under_flock(path, data):
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert os.write(fd, data) == len(data)


def ofd_lock(fd, kind):
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


LOCKS_THAT_WRITE = {
    "flock EX": lambda fd: fcntl.flock(fd, fcntl.LOCK_EX),
    "POSIX write lock": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX),
    "OFD write lock": lambda fd: ofd_lock(fd, fcntl.F_WRLCK),
}
LOCKS_THAT_READ = {
    "flock SH": lambda fd: fcntl.flock(fd, fcntl.LOCK_SH),
    "POSIX read lock": lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH),
    "OFD read lock": lambda fd: ofd_lock(fd, fcntl.F_RDLCK),
}


# --- read and write ----------------------------------------------------------

@pytest.mark.parametrize("mode", MODES)
def test_a_value_never_written_is_empty(lockspace, mode):
    touch(lockspace / "rev")
    assert get(lockspace / "rev") == b""
    assert get(lockspace / f".{mode}" / "rev") == b""
    assert (lockspace / "rev").stat().st_size == 0


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("reader", MODES)
def test_what_was_written_under_a_lock_is_read_under_the_next(lockspace, writer, reader):
    put(lockspace / f".{writer}" / "rev", b"rev 42\n")
    assert get(lockspace / f".{reader}" / "rev") == b"rev 42\n"
    assert get(lockspace / "rev") == b"rev 42\n"
    assert (lockspace / "rev").stat().st_size == 7


@pytest.mark.parametrize("kind", LOCKS_THAT_WRITE)
def test_a_write_lock_of_the_same_descriptor_allows_writing(lockspace, kind):
    with opened(lockspace / "rev", os.O_RDWR | os.O_CREAT) as fd:
        LOCKS_THAT_WRITE[kind](fd)
        assert os.write(fd, b"42") == 2
        assert os.pread(fd, 100, 0) == b"42"
    assert get(lockspace / "rev") == b"42"
    with opened(lockspace / "rev", os.O_RDONLY) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH)
        assert os.read(fd, 100) == b"42"


@pytest.mark.parametrize("mode", NO_WRITERS)
def test_a_write_in_a_weaker_mode_directory_is_enolck(lockspace, mode):
    with opened(lockspace / f".{mode}" / "rev") as fd:
        with raises_errno(errno.ENOLCK):
            os.write(fd, b"42")
    assert get(lockspace / ".pr" / "rev") == b""


@pytest.mark.parametrize("kind", LOCKS_THAT_READ)
def test_a_write_under_a_read_lock_is_enolck(lockspace, kind):
    touch(lockspace / "rev")
    with opened(lockspace / "rev") as fd:
        LOCKS_THAT_READ[kind](fd)
        with raises_errno(errno.ENOLCK):
            os.write(fd, b"42")
    assert get(lockspace / "rev") == b""


def test_a_write_without_a_lock_is_enolck(lockspace):
    touch(lockspace / "rev")
    with opened(lockspace / "rev") as fd:
        with raises_errno(errno.ENOLCK):
            os.write(fd, b"42")
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.flock(fd, fcntl.LOCK_UN)
        with raises_errno(errno.ENOLCK):
            os.write(fd, b"42")


def test_the_lock_of_another_open_file_is_not_ours(lockspace):
    with opened(lockspace / ".ex" / "rev"), opened(lockspace / "rev", os.O_RDWR | os.O_CREAT) as fd:
        with raises_errno(errno.ENOLCK):
            os.write(fd, b"42")


def test_a_lock_counts_for_every_copy_of_its_descriptor(lockspace):
    touch(lockspace / "rev")
    with opened(lockspace / "rev") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        copy = os.dup(fd)
        assert os.write(copy, b"42") == 2
        Child(lambda peer: os.pwrite(fd, b"3", 1), keep=[fd]).join()
        os.close(copy)
        assert os.pread(fd, 100, 0) == b"43"


# --- 32 bytes ----------------------------------------------------------------

def test_a_value_has_up_to_32_bytes(lockspace):
    value = bytes(range(1, 33))
    put(lockspace / ".ex" / "rev", value)
    assert get(lockspace / "rev") == value
    assert (lockspace / "rev").stat().st_size == VALUE_LEN


@pytest.mark.parametrize("data, offset",
                         [(b"x" * 33, 0), (b"x", 32), (b"xyz", 30), (b"x", 1000), (b"x" * 100000, 0), (b"x" * 32, 1),
                          (b"x", 1 << 40)])
def test_a_write_past_byte_32_is_efbig_and_nothing_of_it_is_made(lockspace, data, offset):
    put(lockspace / ".ex" / "rev", b"before")
    with opened(lockspace / ".ex" / "rev") as fd:
        with raises_errno(errno.EFBIG):
            os.pwrite(fd, data, offset)
        assert os.pread(fd, 100, 0) == b"before"
        assert os.pwrite(fd, b"after", 0) == 5
    assert get(lockspace / "rev") == b"aftere"


def scattered(data):
    """Its bytes, each on a page of its own, for writev and readv."""
    pages = memoryview(mmap.mmap(-1, len(data) * mmap.PAGESIZE))
    views = [pages[i * mmap.PAGESIZE:][:1] for i in range(len(data))]
    for view, byte in zip(views, data, strict=True):
        view[0] = byte
    return views


def requests_during(mountpoint, function):
    """How many requests the daemon has answered for it."""
    def count():
        return int(re.search(rb"^lockspacefs_requests_total (\d+)$", get(mountpoint / ".metrics"), re.MULTILINE)[1])
    counts = [count(), count()]
    function()
    counts.append(count())
    return counts[2] - counts[1] - (counts[1] - counts[0])


def test_a_value_is_one_request_wherever_it_lies_in_memory(lockspace):
    """The kernel splits what lies on too many pages: a write past the end would be made in part, and who reads without
    a lock would see half of one value and half of another."""
    value = bytes(range(1, VALUE_LEN + 1))
    with opened(lockspace / ".ex" / "r") as fd:
        with raises_errno(errno.EFBIG):
            os.pwritev(fd, scattered(value + b"x"), 0)
        assert os.pread(fd, 100, 0) == b""
        assert os.pwritev(fd, scattered(value), 0) == VALUE_LEN
    with opened(lockspace / "r", os.O_RDONLY) as fd:
        views = scattered(bytes(VALUE_LEN))
        # now and then the attributes of a directory on the way are asked for again
        wait_until(lambda: requests_during(lockspace.parent, lambda: os.preadv(fd, views, 0)) == 1)
        assert b"".join(views) == value


@pytest.mark.parametrize("data, size",
                         [(b"", 0), (b"a", 1), (b"a\0\0", 1), (b"\0\0\0", 0), (b"\0a", 2), (b"a\0b\0", 3),
                          (b"\0" * 31 + b"x", 32)])
def test_the_size_is_the_position_of_the_last_byte_that_is_not_zero(lockspace, data, size):
    with opened(lockspace / ".ex" / "rev") as fd:
        if data:
            assert os.write(fd, data) == len(data)
        assert os.fstat(fd).st_size == size
        assert os.pread(fd, 100, 0) == data[:size]
    touch(lockspace / "rev")
    assert (lockspace / "rev").stat().st_size == size
    assert get(lockspace / "rev") == data[:size]


def test_a_gap_is_filled_with_zeros(lockspace):
    with opened(lockspace / ".ex" / "rev") as fd:
        assert os.pwrite(fd, b"x", 31) == 1
        assert os.pread(fd, 100, 0) == b"\0" * 31 + b"x"
        assert os.pwrite(fd, b"y", 3) == 1
        assert os.pread(fd, 100, 0) == b"\0\0\0y" + b"\0" * 27 + b"x"


def test_reads_at_an_offset(lockspace):
    put(lockspace / ".ex" / "rev", b"0123456789")
    for path in [lockspace / "rev", lockspace / ".pr" / "rev"]:
        with opened(path, os.O_RDONLY) as fd:
            assert os.pread(fd, 4, 3) == b"3456"
            assert os.pread(fd, 100, 8) == b"89"
            assert os.pread(fd, 1, 10) == b""
            assert os.pread(fd, 1, 100) == b""
            assert os.pread(fd, 1, 1 << 40) == b""
            assert [os.read(fd, 4) for _ in range(4)] == [b"0123", b"4567", b"89", b""]
            assert os.lseek(fd, -2, os.SEEK_END) == 8
            assert os.read(fd, 100) == b"89"


def test_a_shorter_value_does_not_cut_the_longer_one(lockspace):
    """As in any file; O_TRUNC or ftruncate does."""
    put(lockspace / ".ex" / "rev", b"0123456789")
    with opened(lockspace / ".ex" / "rev", os.O_WRONLY) as fd:
        os.write(fd, b"abc")
    assert get(lockspace / "rev") == b"abc3456789"


def test_several_writes_follow_one_another(lockspace):
    with opened(lockspace / ".ex" / "rev", os.O_WRONLY) as fd:
        for part in [b"one ", b"two ", b"three"]:
            assert os.write(fd, part) == len(part)
    assert get(lockspace / "rev") == b"one two three"


@pytest.mark.parametrize("mode", WRITERS)
def test_o_append_writes_after_the_last_byte(lockspace, mode):
    """Wherever the kernel thinks that is: it last saw a longer or a shorter value."""
    put(lockspace / ".ex" / "rev", b"0123456789")
    with opened(lockspace / "rev", os.O_RDONLY) as seen:
        assert os.fstat(seen).st_size == 10
        with opened(lockspace / f".{mode}" / "rev", os.O_WRONLY | os.O_APPEND) as fd:
            assert os.write(fd, b"ab") == 2
            assert os.write(fd, b"cd") == 2
        assert get(lockspace / "rev") == b"0123456789abcd"
        put(lockspace / ".ex" / "rev", b"x")
        with opened(lockspace / f".{mode}" / "rev", os.O_RDWR | os.O_APPEND) as fd:
            assert os.write(fd, b"y") == 1
            assert os.pread(fd, 100, 0) == b"xy"
    assert get(lockspace / "rev") == b"xy"


@pytest.mark.parametrize("before, after", [(b"", b"0123456789"), (b"0123456789", b"x"), (b"01", b"\0\0\0\0")])
def test_o_append_does_not_trust_the_size_that_the_kernel_has(lockspace, before, after):
    """The value changes by way of another inode, here .ex, or on another node: the kernel does not see it."""
    touch(lockspace / "rev")
    put(lockspace / ".ex" / "rev", before)
    with opened(lockspace / "rev", os.O_RDWR | os.O_APPEND) as fd:
        assert os.fstat(fd).st_size == len(before)
        put(lockspace / ".ex" / "rev", after)
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert os.write(fd, b"ab") == 2
    assert get(lockspace / "rev") == after.rstrip(b"\0") + b"ab"


def test_o_append_with_values_of_two_descriptors(lockspace):
    touch(lockspace / "rev")
    with opened(lockspace / "rev", os.O_RDWR | os.O_APPEND) as one, opened(lockspace / "rev",
                                                                           os.O_RDWR | os.O_APPEND) as two:
        for i in range(8):
            for fd in [one, two]:
                fcntl.flock(fd, fcntl.LOCK_EX)
                assert os.write(fd, b"%d" % i) == 1
                fcntl.flock(fd, fcntl.LOCK_UN)
    assert get(lockspace / "rev") == b"0011223344556677"


def test_o_append_past_byte_32_is_efbig(lockspace):
    put(lockspace / ".ex" / "rev", b"x" * 30)
    with opened(lockspace / ".ex" / "rev", os.O_WRONLY | os.O_APPEND) as fd:
        with raises_errno(errno.EFBIG):
            os.write(fd, b"abc")
        assert os.write(fd, b"ab") == 2
    assert get(lockspace / "rev") == b"x" * 30 + b"ab"


# --- clearing ----------------------------------------------------------------

@pytest.mark.parametrize("mode", WRITERS)
def test_o_trunc_in_pw_and_ex_clears_the_value(lockspace, mode):
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / f".{mode}" / "rev", os.O_RDWR | os.O_TRUNC) as fd:
        assert os.read(fd, 100) == b""
        assert os.fstat(fd).st_size == 0
    assert get(lockspace / "rev") == b""
    assert (lockspace / "rev").stat().st_size == 0


def test_o_trunc_on_the_lock_file_is_harmless(lockspace):
    """`exec 9>file` and `flock` after it must not lose the value."""
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / "rev", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
    assert get(lockspace / "rev") == b"42"
    assert (lockspace / "rev").stat().st_size == 2


@pytest.mark.parametrize("length", [0, 1, 2, 5, 32])
def test_truncate_by_path_is_accepted_and_changes_nothing(lockspace, length):
    put(lockspace / ".ex" / "rev", b"42")
    os.truncate(lockspace / "rev", length)
    assert get(lockspace / "rev") == b"42"
    assert (lockspace / "rev").stat().st_size == 2


@pytest.mark.parametrize("kind", LOCKS_THAT_WRITE)
def test_ftruncate_under_a_lock_that_allows_writing_clears_the_value(lockspace, kind):
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / "rev") as fd:
        LOCKS_THAT_WRITE[kind](fd)
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_size == 0
        assert os.pread(fd, 100, 0) == b""
    assert get(lockspace / "rev") == b""


@pytest.mark.parametrize("mode", WRITERS)
def test_ftruncate_in_pw_and_ex_clears_the_value(lockspace, mode):
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / f".{mode}" / "rev") as fd:
        os.ftruncate(fd, 0)
        os.write(fd, b"7")
    assert get(lockspace / "rev") == b"7"


@pytest.mark.parametrize("kind", [None, *LOCKS_THAT_READ])
def test_ftruncate_without_such_a_lock_changes_nothing(lockspace, kind):
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / "rev") as fd:
        if kind:
            LOCKS_THAT_READ[kind](fd)
        try:
            os.ftruncate(fd, 0)
        except OSError as error:
            assert error.errno == errno.ENOLCK
        assert os.pread(fd, 100, 0) == b"42"
    assert get(lockspace / "rev") == b"42"


# --- who sees what, and when -------------------------------------------------

@pytest.mark.parametrize("mode", WRITERS)
def test_others_see_a_value_when_the_lock_is_dropped(lockspace, mode):
    put(lockspace / ".ex" / "rev", b"old")
    with opened(lockspace / f".{mode}" / "rev") as writer, opened(lockspace / "rev", os.O_RDONLY) as reader:
        os.write(writer, b"new")
        assert os.pread(writer, 100, 0) == b"new"
        assert os.pread(reader, 100, 0) == b"old"
        assert get(lockspace / "rev") == b"old"
        assert get(lockspace / ".nl" / "rev") == b"old"
        assert os.getxattr(lockspace / "rev", "user.value") == b"old".ljust(VALUE_LEN, b"\0")
    assert get(lockspace / "rev") == b"new"


def test_the_size_is_that_of_what_was_written(lockspace):
    """Whatever others read meanwhile, and whoever gives up waiting."""
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / ".ex" / "rev") as fd:
        os.write(fd, b"hello")
        assert get(lockspace / "rev") == b"42"
        assert os.fstat(fd).st_size == 5
        os.fsync(fd)
        assert os.fstat(fd).st_size == 5
        os.write(fd, b", world")
        child = wait_until_queued(lockspace, Child(wait_for_a_signal, lockspace / "rev"))
        child.signal(signal.SIGUSR1)
        assert child.join() == errno.EINTR
        assert get(lockspace / "rev") == b"hello"
        assert (lockspace / "rev").stat().st_size == 12
    assert (lockspace / "rev").stat().st_size == 12
    put(lockspace / ".ex" / "rev", b"7")
    assert (lockspace / "rev").stat().st_size == 1


def test_a_read_without_a_lock_does_not_wait(lockspace):
    """Not even behind a holder and a waiter of EX."""
    put(lockspace / ".ex" / "rev", b"42")

    def wait(peer):
        with opened(lockspace / ".ex" / "rev"):
            pass

    with opened(lockspace / ".ex" / "rev"):
        child = Child(wait)
        wait_for_waiters(lockspace)
        assert get(lockspace / "rev") == b"42"
        assert os.getxattr(lockspace / "rev", "user.value").rstrip(b"\0") == b"42"
        assert (lockspace / "rev").stat().st_size == 2
    child.join()


@pytest.mark.parametrize("lower", ["EX to SH", "F_WRLCK to F_RDLCK"])
def test_others_see_a_value_when_the_lock_is_lowered(lockspace, lower):
    touch(lockspace / "rev")
    lock = fcntl.flock if lower == "EX to SH" else fcntl.lockf
    with opened(lockspace / "rev") as fd:
        lock(fd, fcntl.LOCK_EX)
        os.write(fd, b"42")
        assert get(lockspace / "rev") == b""
        lock(fd, fcntl.LOCK_SH)
        assert os.pread(fd, 100, 0) == b"42"
        assert Child(lambda peer: get(lockspace / "rev")).join() == b"42"
        with raises_errno(errno.ENOLCK):
            os.write(fd, b"43")


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync])
@pytest.mark.parametrize("mode", WRITERS)
def test_others_see_a_value_at_fsync(lockspace, sync, mode):
    with opened(lockspace / f".{mode}" / "rev") as fd:
        for value in [b"41", b"42"]:
            os.pwrite(fd, value, 0)
            sync(fd)
            assert get(lockspace / "rev") == value
        os.pwrite(fd, b"43", 0)
        assert get(lockspace / "rev") == b"42"
        with raises_errno(errno.EWOULDBLOCK):   # it is still ours
            os.open(lockspace / ".pr" / "rev", os.O_RDONLY | os.O_NONBLOCK)
    assert get(lockspace / "rev") == b"43"


def test_fsync_under_flock_publishes(lockspace):
    touch(lockspace / "rev")
    with opened(lockspace / "rev") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, b"42")
        os.fsync(fd)
        assert get(lockspace / "rev") == b"42"


def test_fsync_with_nothing_to_publish_succeeds(lockspace):
    put(lockspace / ".ex" / "rev", b"42")
    for path in [lockspace / "rev", *(lockspace / f".{mode}" / "rev" for mode in MODES)]:
        with opened(path) as fd:
            os.fsync(fd)
    assert get(lockspace / "rev") == b"42"


def test_under_a_lock_the_value_is_that_of_the_grant(lockspace):
    """CR and CW share the resource with a writer in PW or CW: they keep what they saw."""
    put(lockspace / ".ex" / "rev", b"old")
    with opened(lockspace / ".cr" / "rev", os.O_RDONLY) as reader:
        assert os.pread(reader, 100, 0) == b"old"
        put(lockspace / ".pw" / "rev", b"new")
        assert os.pread(reader, 100, 0) == b"old"
        assert get(lockspace / "rev") == b"new"
    assert get(lockspace / ".cr" / "rev") == b"new"


def test_a_new_grant_brings_the_new_value(lockspace):
    touch(lockspace / "rev")
    with opened(lockspace / "rev") as fd:
        for value in [b"1", b"22", b"333"]:
            write_under_flock(lockspace / "rev", value)
            fcntl.flock(fd, fcntl.LOCK_SH)
            assert os.pread(fd, 100, 0) == value
            fcntl.flock(fd, fcntl.LOCK_UN)


def test_a_value_survives_its_killed_writer(lockspace):
    """The death of a process closes its files like close(2) does; lost is only what a node or a daemon takes along."""
    def write(peer):
        fd = os.open(lockspace / ".ex" / "rev", os.O_RDWR)
        os.write(fd, b"42")
        peer.say("written")
        peer.wait_for("never")

    child = Child(write)
    child.wait_for("written")
    child.kill()
    assert get(lockspace / ".pr" / "rev") == b"42"


def test_unlock_publishes_and_the_descriptor_goes_on(lockspace):
    touch(lockspace / "rev")
    with opened(lockspace / "rev") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, b"42")
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert os.pread(fd, 100, 0) == b"42"
        write_under_flock(lockspace / "rev", b"43")
        assert os.pread(fd, 100, 0) == b"43"


def test_a_lock_that_wrote_nothing_leaves_the_value_alone(lockspace):
    put(lockspace / ".ex" / "rev", b"42")
    for mode in MODES:
        with opened(lockspace / f".{mode}" / "rev"):
            pass
    with opened(lockspace / "rev") as fd:
        for operation in [fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]:
            fcntl.flock(fd, operation)
    assert get(lockspace / "rev") == b"42"


def test_values_of_two_resources_are_two(lockspace):
    for i in range(50):
        put(lockspace / ".ex" / f"rev-{i}", b"%d" % i)
    for i in range(50):
        assert get(lockspace / ".pr" / f"rev-{i}") == b"%d" % i


def test_a_counter_loses_no_increment(lockspace):
    """What values are for: read, add one, write, under one lock, by many."""
    def count(peer):
        for _ in range(50):
            with opened(lockspace / ".ex" / "counter") as fd:
                number = int(os.read(fd, 100) or b"0")
                os.pwrite(fd, b"%d" % (number + 1), 0)

    children = [Child(count) for _ in range(4)]
    for child in children:
        child.join()
    assert get(lockspace / "counter") == b"200"


# --- how long a value lives ----------------------------------------------------

def test_a_value_lives_as_long_as_its_file_is_listed(lockspace):
    put(lockspace / ".ex" / "rev", b"42")
    for _ in range(3):
        assert get(lockspace / "rev") == b"42"
        assert get(lockspace / ".ex" / "rev") == b"42"
    (lockspace / "rev").unlink()
    assert get(lockspace / ".pr" / "rev") == b""
    touch(lockspace / "rev")
    assert get(lockspace / "rev") == b""
    assert (lockspace / "rev").stat().st_size == 0


@pytest.mark.parametrize("mode", ["nl", "cr", "pr", "ex"])
def test_a_value_outlives_its_file_while_any_lock_is_left(lockspace, mode):
    put(lockspace / ".ex" / "rev", b"42")
    with opened(lockspace / f".{mode}" / "rev"):
        (lockspace / "rev").unlink()
        touch(lockspace / "rev")
        assert get(lockspace / "rev") == b"42"
        (lockspace / "rev").unlink()
        assert get(lockspace / ".nl" / "rev") == b"42"
    assert get(lockspace / ".nl" / "rev") == b""


def test_a_value_written_to_an_unlinked_file_lives_while_it_is_locked(lockspace):
    with opened(lockspace / "rev", os.O_RDWR | os.O_CREAT) as fd, opened(lockspace / ".nl" / "rev"):
        (lockspace / "rev").unlink()
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, b"42")
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert get(lockspace / ".pr" / "rev") == b"42"


def test_what_keeps_a_value_is_nobodys_lock(mount, lockspace):
    put(lockspace / ".ex" / "rev", b"42")
    assert locks(lockspace) == []
    assert status(mount)["held"] == 0


# --- user.value ----------------------------------------------------------------

@pytest.mark.parametrize("value", [b"", b"42", b"\0\1\0\2", bytes(range(32)), b"x" * 32, b"\xff" * 31])
def test_user_value_always_has_32_bytes(lockspace, value):
    touch(lockspace / "rev")
    if value:
        put(lockspace / ".ex" / "rev", value)
    assert os.getxattr(lockspace / "rev", "user.value") == value.ljust(VALUE_LEN, b"\0")
    with opened(lockspace / "rev", os.O_RDONLY) as fd:
        assert os.getxattr(fd, "user.value") == value.ljust(VALUE_LEN, b"\0")


def test_user_value_is_listed(lockspace):
    touch(lockspace / "rev")
    assert "user.value" in os.listxattr(lockspace / "rev")


def test_user_value_is_read_by_getfattr(lockspace):
    put(lockspace / ".ex" / "rev", b"\1\2")
    done = shell("getfattr --absolute-names --only-values -n user.value rev | od -An -tx1 -v", cwd=lockspace)
    assert done.stdout.split() == ["01", "02"] + ["00"] * 30


def test_user_value_is_not_set_without_a_lock(lockspace):
    put(lockspace / ".ex" / "rev", b"42")
    with raises_errno(errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM):
        os.setxattr(lockspace / "rev", "user.value", b"x" * VALUE_LEN)
    with raises_errno(errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM):
        os.removexattr(lockspace / "rev", "user.value")
    assert get(lockspace / "rev") == b"42"


def test_a_short_buffer_for_user_value_is_erange(lockspace):
    touch(lockspace / "rev")
    path = os.fsencode(lockspace / "rev")
    assert libc.getxattr(path, b"user.value", None, 0) == VALUE_LEN
    buffer = ctypes.create_string_buffer(31)
    assert libc.getxattr(path, b"user.value", buffer, 31) == -1
    assert ctypes.get_errno() == errno.ERANGE


# --- as people write them ------------------------------------------------------

@pytest.mark.parametrize("command, expected", [
    ("echo 'rev 42' >.ex/rev; cat .pr/rev", "rev 42\n"),
    ("echo 'rev 42' >.ex/rev; cat rev", "rev 42\n"),
    ("printf a >.ex/rev; printf b >>.ex/rev; printf c >>.pw/rev; cat rev", "abc"),
    ("printf 0123456789 >.ex/rev; printf ab | dd of=.ex/rev bs=1 seek=3 conv=notrunc status=none; cat rev",
     "012ab56789"),
    ("printf 0123456789 | dd of=.ex/rev status=none; dd if=rev bs=3 count=1 status=none", "012"),
    ("printf 0123456789 >.ex/rev; printf ab | dd of=.ex/rev status=none; cat rev", "ab"),
    ("printf 42 >.ex/rev; ( flock 9; cat <&9 ) 9<>rev", "42"),
    ("printf 42 >.ex/rev; ( flock 9; printf 43 >&9 ) 9<>rev; cat rev", "43"),
    ("printf 42 >.ex/rev; ( flock 9; printf 7 >&9 ) 9>rev; cat rev", "72"),
    ("printf 42 >.ex/rev; exec 9>rev; flock 9; exec 9>&-; cat rev", "42"),
    ("exec 9<>.ex/rev; printf 42 >&9; exec 9>&-; cat rev", "42"),
    ("printf 42 | tee .ex/rev >/dev/null; cat rev", "42"),
    ("printf 42 >../plain; cp ../plain .ex/rev; cat rev; rm ../plain", "42"),
    ("printf 42 >.ex/rev; cp rev ../plain; cat ../plain; rm ../plain", "42"),
    ("printf 42 >.ex/rev; : >.ex/rev; wc -c <rev", "0\n"),
    ("printf 42 >.ex/rev; tail -c 1 rev; head -c 1 rev", "24"),
    ("printf 'x%.0s' $(seq 32) >.ex/rev; stat -c %s rev", "32\n"),
    ("printf 42 >.ex/rev; stat -c %s .nl/rev", "2\n"),
])
def test_shell_redirections(lockspace, directory, command, expected):
    command = command.replace("../plain", str(directory / "plain"))
    for program in ["dash", "bash"]:
        done = subprocess.run([program, "-c", command], cwd=lockspace, capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
        (lockspace / "rev").unlink()


@pytest.mark.parametrize("command, reason", [
    ("echo 42 >rev", errno.ENOLCK),
    ("echo 42 >.pr/rev", errno.ENOLCK),
    ("printf 'x%.0s' $(seq 33) >.ex/rev", errno.EFBIG),
])
def test_the_shell_says_why_a_write_fails(lockspace, command, reason):
    done = shell(f"export LC_ALL=C; {command} || exit 7", cwd=lockspace)
    assert done.returncode == 7
    assert os.strerror(reason) in done.stderr or "I/O error" in done.stderr     # dash's word for any of them
    assert get(lockspace / ".pr" / "rev") == b""


def test_values_of_ordinary_users(lockspace):
    run_as(NOBODY, lambda: put(lockspace / ".ex" / "rev", b"42"))
    assert run_as(SOMEBODY, lambda: get(lockspace / ".pr" / "rev")) == b"42"
