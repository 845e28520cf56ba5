"""The tree: what is there, what a listing shows, and that listing and opening what it shows is harmless."""

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import time

import pytest

from lockspacefs_test import (MODES, OTHER_GROUP, SOMEBODY, TIMEOUT, Child, get, locks, make_lockspace, opened, put,
                              raises_errno, shell, touch)

CONTROL_FILES = [".force", ".locks"]
DOT_NAMES = ["." + mode for mode in MODES] + CONTROL_FILES


def lock_table(lockspace):
    """`.locks` without the column that grows by itself."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in locks(lockspace)]


# --- the root --------------------------------------------------------------

def test_a_fresh_mount_lists_nothing(mount):
    assert os.listdir(mount) == []


def test_the_root_has_one_directory_per_lockspace(mount):
    for name in ["alpha", "beta"]:
        (mount / name).mkdir()
    assert sorted(os.listdir(mount)) == ["alpha", "beta"]
    (mount / "alpha").rmdir()
    assert os.listdir(mount) == ["beta"]


def test_status_answers_by_name_but_is_not_listed(mount):
    assert stat.S_ISREG((mount / ".status").stat().st_mode)
    assert ".status" not in os.listdir(mount)


def test_the_root_holds_no_plain_files(mount):
    with raises_errno(errno.EPERM, errno.EACCES):
        os.mknod(mount / "file", 0o644 | stat.S_IFREG)
    with raises_errno(errno.EPERM, errno.EACCES):
        os.open(mount / "file", os.O_WRONLY | os.O_CREAT)
    assert os.listdir(mount) == []


def test_a_name_that_is_no_lockspace_is_not_there(mount):
    for name in ["web", ".ex", ".locks", ".force", ".snapshot", "plock"]:
        with raises_errno(errno.ENOENT):
            os.stat(mount / name)


def test_a_lockspace_is_a_directory_and_not_unlinked(lockspace):
    assert stat.S_ISDIR(lockspace.stat().st_mode)
    with raises_errno(errno.EISDIR):
        os.unlink(lockspace)


# --- the dot names ---------------------------------------------------------

def test_dot_names_answer_by_name(lockspace):
    for mode in MODES:
        assert stat.S_ISDIR((lockspace / f".{mode}").stat().st_mode)
    for name in CONTROL_FILES:
        assert stat.S_ISREG((lockspace / name).stat().st_mode)


def test_dot_names_are_never_listed(lockspace):
    touch(lockspace / "job")
    assert os.listdir(lockspace) == ["job"]
    for name in DOT_NAMES:                      # nor after they have been looked up and used
        (lockspace / name).stat()
    with opened(lockspace / ".ex" / "job"):
        assert os.listdir(lockspace) == ["job"]
    assert sorted(shell("ls -a", cwd=lockspace).stdout.split()) == [".", "..", "job"]


def test_other_dot_names_are_not_there(lockspace):
    for name in [".xx", ".e", ".exx", ".EX", ".status", ".force1", ".lock", "..."]:
        with raises_errno(errno.ENOENT):
            os.stat(lockspace / name)


def test_dot_names_are_not_removed(mount, lockspace):
    for mode in MODES:
        with raises_errno(errno.EPERM):
            os.rmdir(lockspace / f".{mode}")
        with raises_errno(errno.EPERM, errno.EISDIR):       # which of them the kernel decides
            os.unlink(lockspace / f".{mode}")
    for path in [lockspace / ".force", lockspace / ".locks", mount / ".status"]:
        with raises_errno(errno.EPERM):
            os.unlink(path)
        with raises_errno(errno.EPERM, errno.ENOTDIR):
            os.rmdir(path)
    for name in DOT_NAMES:
        (lockspace / name).stat()
    (mount / ".status").stat()


def test_dot_names_are_not_made(mount, lockspace):
    for name in DOT_NAMES:
        with raises_errno(errno.EEXIST):
            os.mkdir(lockspace / name)
        with raises_errno(errno.EEXIST):
            os.mknod(lockspace / name, 0o644 | stat.S_IFREG)
    with raises_errno(errno.EEXIST):
        os.mkdir(mount / ".status")


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_directory_lists_nothing(lockspace, mode):
    touch(lockspace / "job")
    with opened(lockspace / f".{mode}" / "job"):
        assert os.listdir(lockspace / f".{mode}") == []


@pytest.mark.parametrize("mode", MODES)
def test_every_valid_name_opens_in_a_mode_directory_and_is_not_listed(lockspace, mode):
    with opened(lockspace / f".{mode}" / "unheard-of"):
        assert [(row["resource"], row["mode"]) for row in locks(lockspace)] == [("unheard-of", mode.upper())]
    with opened(lockspace / f".{mode}" / "unheard-of", os.O_RDONLY | os.O_CREAT):
        pass
    assert os.listdir(lockspace) == []
    assert locks(lockspace) == []


@pytest.mark.parametrize("mode", MODES)
def test_exclusive_creation_in_a_mode_directory_is_always_eexist(lockspace, mode):
    with raises_errno(errno.EEXIST):
        os.open(lockspace / f".{mode}" / "unheard-of", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    assert locks(lockspace) == []


# --- lock files ------------------------------------------------------------

def test_a_lock_file_is_an_empty_regular_file(lockspace):
    touch(lockspace / "job")
    seen = (lockspace / "job").stat()
    assert stat.S_ISREG(seen.st_mode)
    assert seen.st_size == 0
    assert get(lockspace / "job") == b""


def test_a_name_never_made_is_not_there(lockspace):
    with raises_errno(errno.ENOENT):
        os.stat(lockspace / "job")
    with raises_errno(errno.ENOENT):
        os.open(lockspace / "job", os.O_RDWR)
    with raises_errno(errno.ENOENT):
        os.unlink(lockspace / "job")


@pytest.mark.parametrize("how",
                         ["open", "open for reading", "touch(1)", "mknod", "flock(1)", "a value in .ex",
                          "a value in .pw"])
def test_a_lock_file_is_listed_once_it_is_made_and_until_it_is_unlinked(lockspace, how):
    path = lockspace / "job"
    if how == "open":
        os.close(os.open(path, os.O_RDWR | os.O_CREAT))
    elif how == "open for reading":
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT))
    elif how == "touch(1)":
        subprocess.run(["touch", path], check=True, timeout=TIMEOUT)
    elif how == "mknod":
        os.mknod(path, 0o644 | stat.S_IFREG)
    elif how == "flock(1)":
        subprocess.run(["flock", path, "true"], check=True, timeout=TIMEOUT)
    else:
        put(lockspace / how.split()[-1] / "job", b"v")
    assert os.listdir(lockspace) == ["job"]
    assert path.exists()
    path.unlink()
    assert os.listdir(lockspace) == []
    assert not path.exists()


def test_exclusive_creation_succeeds_once(lockspace):
    os.close(os.open(lockspace / "job", os.O_RDWR | os.O_CREAT | os.O_EXCL))
    with raises_errno(errno.EEXIST):
        os.open(lockspace / "job", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with raises_errno(errno.EEXIST):
        os.mknod(lockspace / "job", 0o644 | stat.S_IFREG)
    (lockspace / "job").unlink()
    os.close(os.open(lockspace / "job", os.O_RDWR | os.O_CREAT | os.O_EXCL))


def test_noclobber_of_the_shell_excludes(lockspace):
    assert shell("set -C; : >job", cwd=lockspace).returncode == 0
    assert shell("set -C; : >job", cwd=lockspace).returncode != 0


@pytest.mark.parametrize("held", MODES)
def test_opening_a_lock_file_takes_no_lock_and_never_waits(lockspace, held):
    touch(lockspace / "job")
    with opened(lockspace / f".{held}" / "job"):
        before = lock_table(lockspace)
        for flags in [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_TRUNC]:
            with opened(lockspace / "job", flags):
                assert lock_table(lockspace) == before


def test_stat_and_o_path_in_a_mode_directory_take_no_lock(lockspace):
    touch(lockspace / "job")
    with opened(lockspace / ".ex" / "job"):
        before = lock_table(lockspace)
        for mode in MODES:
            (lockspace / f".{mode}" / "job").stat()
            os.access(lockspace / f".{mode}" / "job", os.R_OK)
            with opened(lockspace / f".{mode}" / "job", os.O_PATH):
                pass
        assert lock_table(lockspace) == before


def test_open_with_o_creat_never_says_eexist(lockspace, engine):
    """Also when a write lists the name between the kernel's look-up and its making."""
    def write_and_unlink(peer):
        while not peer.has_said():
            put(lockspace / ".ex" / "job", b"42")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lockspace / "job")
        peer.wait_for("go")

    child = Child(write_and_unlink)
    for _ in range(20000 if engine == "local" else 1000):
        touch(lockspace / "job")
    child.say("go")
    child.join()


def test_times_can_be_set(lockspace):
    touch(lockspace / "job")
    os.utime(lockspace / "job", ns=(1_000_000_007, 2_000_000_011))
    seen = (lockspace / "job").stat()
    assert (seen.st_atime_ns, seen.st_mtime_ns) == (1_000_000_007, 2_000_000_011)
    os.utime(lockspace / "job")
    assert abs((lockspace / "job").stat().st_mtime - time.time()) < TIMEOUT


def test_times_beyond_all_bounds_become_the_nearest(lockspace):
    touch(lockspace / "job")
    year = 365.2425 * 86400
    os.utime(lockspace / "job", (-2**60, 2**60))
    seen = (lockspace / "job").stat()
    assert 1677 < 1970 + seen.st_atime_ns / 1e9 / year < 1678
    assert 2262 < 1970 + seen.st_mtime_ns / 1e9 / year < 2263


def test_a_new_file_and_a_new_lockspace_have_the_time_of_now(lockspace):
    touch(lockspace / "job")
    for path in [lockspace, lockspace / "job"]:
        assert abs(path.stat().st_mtime - time.time()) < TIMEOUT


def test_permissions_and_owner_of_a_lock_file_can_be_set(lockspace):
    touch(lockspace / "job")
    (lockspace / "job").chmod(0o640)
    os.chown(lockspace / "job", SOMEBODY, OTHER_GROUP)
    seen = (lockspace / "job").stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o640, SOMEBODY, OTHER_GROUP)


def test_an_open_file_that_was_unlinked_is_still_a_file(lockspace):
    with opened(lockspace / "job", os.O_RDWR | os.O_CREAT) as fd:
        (lockspace / "job").unlink()
        assert os.fstat(fd).st_nlink == 0
        os.fchmod(fd, 0o600)
        os.utime(fd, (5, 7))
        assert (stat.S_IMODE(os.fstat(fd).st_mode), os.fstat(fd).st_mtime) == (0o600, 7)
        assert os.pread(fd, 100, 0) == b""
    assert os.listdir(lockspace) == []


def test_the_resource_is_the_name_not_the_file(lockspace):
    """A lock held across an unlink stays a lock, also for those who make the file again."""
    with opened(lockspace / "job", os.O_RDWR | os.O_CREAT) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        (lockspace / "job").unlink()
        assert os.listdir(lockspace) == []
        assert [row["state"] for row in locks(lockspace)] == ["held"]
        with opened(lockspace / "job", os.O_RDWR | os.O_CREAT) as again:
            with raises_errno(errno.EWOULDBLOCK):
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with raises_errno(errno.EWOULDBLOCK):
            os.open(lockspace / ".pr" / "job", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.flock(fd, fcntl.LOCK_UN)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)     # the old descriptor still works, too


def test_resources_of_two_lockspaces_are_two(mount, lockspace):
    other = make_lockspace(mount, "other")
    with opened(lockspace / ".ex" / "job"):
        with opened(other / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK):
            assert [row["resource"] for row in locks(other)] == ["job"]


# --- listing ---------------------------------------------------------------

def test_every_name_of_a_large_lockspace_is_listed_once(lockspace):
    names = [f"resource-{i:04}-{'x' * 40}" for i in range(3000)]
    for name in names:
        os.mknod(lockspace / name, 0o644 | stat.S_IFREG)
    assert sorted(os.listdir(lockspace)) == names
    for name in names[::2]:
        os.unlink(lockspace / name)
    assert sorted(os.listdir(lockspace)) == names[1::2]


def test_a_listing_is_in_the_order_in_which_its_names_came(lockspace):
    names = [f"job-{(i * 37) % 101}" for i in range(101)]
    for name in names:
        touch(lockspace / name)
    assert os.listdir(lockspace) == names
    for name in names[:3]:
        os.unlink(lockspace / name)
    touch(lockspace / names[1])
    assert os.listdir(lockspace) == [*names[3:], names[1]]


def test_a_listing_goes_on_while_its_files_are_removed(lockspace):
    """As rm -r and find -delete do it: what was neither made nor removed meanwhile is listed exactly once."""
    for i in range(2000):
        os.mknod(lockspace / f"{i}", 0o644 | stat.S_IFREG)
    seen = []
    with os.scandir(lockspace) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert sorted(seen, key=int) == [f"{i}" for i in range(2000)]
    assert os.listdir(lockspace) == []


def test_a_listing_tells_the_type_and_the_inode_of_each_name(mount, lockspace):
    touch(lockspace / "job")
    with os.scandir(mount) as entries:
        entry, = entries
        assert entry.is_dir(follow_symlinks=False) and entry.inode() == lockspace.stat().st_ino
    with os.scandir(lockspace) as entries:
        entry, = entries
        assert entry.is_file(follow_symlinks=False) and entry.inode() == (lockspace / "job").stat().st_ino


def test_inode_numbers_differ(mount, lockspace):
    touch(lockspace / "job")
    touch(lockspace / "other")
    paths = [mount, mount / ".status", lockspace, lockspace / "job", lockspace / "other",
             *(lockspace / name for name in DOT_NAMES)]
    assert len({path.stat().st_ino for path in paths}) == len(paths)


@pytest.mark.parametrize("command, expected", [
    ("find . -type f", {"./web/free", "./web/taken"}),
    ("find .", {".", "./web", "./web/free", "./web/taken"}),
    ("grep -r . .", {"./web/free:secret"}),
    ("ls -lAR", None),
    ("tar cf - .", None),
    ("cat web/*", {"secret"}),
    ("wc -c web/*", None),
    ("cp -r . ../copy", None),
    ("du -a .", None),
    ("chmod -R go-w web", None),
    ("head -c 1 web/free", {"s"}),
])
def test_what_walks_the_tree_takes_no_lock_and_never_trips(mount, lockspace, command, expected):
    put(lockspace / ".ex" / "free", b"secret")
    touch(lockspace / "taken")
    with opened(lockspace / ".ex" / "taken"):
        before = lock_table(lockspace)
        if command.startswith("tar"):
            done = shell(command + " | tar tf -", cwd=mount)
            assert {"./web/free", "./web/taken"} <= set(done.stdout.split())
        else:
            done = shell(command, cwd=mount)
        assert (done.returncode, done.stderr) == (0, "")
        if expected is not None:
            assert set(done.stdout.split()) == expected
        assert lock_table(lockspace) == before


def test_rm_r_removes_a_lockspace_with_its_files(mount, lockspace):
    for i in range(500):
        touch(lockspace / f"job-{i}")
    put(lockspace / ".ex" / "rev", b"42")
    done = shell("rm -r web", cwd=mount)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(mount) == []


def test_rm_r_trips_over_a_lock_only_at_the_lockspace(mount, lockspace):
    touch(lockspace / "job")
    with opened(lockspace / ".ex" / "job"):
        done = shell("rm -r web", cwd=mount)
        assert done.returncode != 0
        assert os.strerror(errno.EBUSY) in done.stderr
        assert [row["state"] for row in locks(lockspace)] == ["held"]


def test_the_kernel_locks_directories_by_itself(lockspace):
    """flock(2) on a directory never reaches us: it excludes on this node, and `.locks` knows nothing of it."""
    with opened(lockspace, os.O_RDONLY) as one, opened(lockspace, os.O_RDONLY) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with raises_errno(errno.EWOULDBLOCK):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert locks(lockspace) == []
