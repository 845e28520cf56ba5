"""The program: its command line, and how it begins and ends."""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from locking import fcntl_waiter, flock_waiter, open_waiter
from lockspacefs_test import (NOBODY, PROJECT, SOMEBODY, TIMEOUT, Child, Daemon, daemon_path, get, is_mounted, locks,
                              lockspacefs, make_lockspace, mounts, opened, put, raises_errno, run_as, shell, status,
                              touch, umount, wait_for_exit, wait_for_poll, wait_for_waiters, wait_until)

PR_SET_CHILD_SUBREAPER = 36
OPTIONS = ["engine=", "mode=", "uid=", "gid=", "wait=", "keep", "max_locks=", "max_files=", "max_waiters=",
           "allow_other"]
REQUEST_TIMEOUTS = [Path("/proc/sys/fs/fuse/default_request_timeout"), Path("/proc/sys/fs/fuse/max_request_timeout")]

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def mountpoint(directory):
    """An empty directory; what is mounted there, or on the file beside it, is taken away."""
    path = directory / f"mnt-{os.getpid()}"
    path.mkdir()
    plain = directory / "plain"
    plain.touch()
    yield path
    for mounted in [path, plain]:
        while is_mounted(mounted):
            umount(mounted, lazily=True)


@pytest.fixture
def subreaper():
    """Daemons in the background become our children: their exit status can be had."""
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def daemons_of(mountpoint):
    """The processes of lockspacefs on that mount point."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):      # it may end meanwhile
            words = (directory / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            names = [Path(os.fsdecode(word)).name for word in words]
            programs = names if names[0].startswith("valgrind") else names[:1]
            if daemon_path().name in programs and mountpoint.name in names:
                if (directory / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(int(directory.name))
    return found


def end_status(pid):
    """The exit status of a daemon that became our child."""
    assert wait_for_exit(pid, TIMEOUT), f"lockspacefs {pid} still runs"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- help, version, mistakes ---------------------------------------------------

def test_help_tells_usage_and_every_option():
    done = lockspacefs("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"(?i)usage:.*lockspacefs.*MOUNTPOINT", done.stdout)
    for option in OPTIONS + ["-f", "-d", "--help", "--version"]:
        assert option in done.stdout


def test_version_is_that_of_the_project():
    version = re.search(r"version: '([^']+)'", (PROJECT / "meson.build").read_text())[1]
    done = lockspacefs("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert version in done.stdout.split()


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("arguments, reason", [
    ([], "(?i)mount ?point"),
    (["-o", "engine=local"], "(?i)mount ?point"),
    (["-o", "engine=paper", "MNT"], "paper"),
    (["-o", "engine=", "MNT"], "engine"),
    (["--nonsense", "MNT"], "nonsense"),
    (["-o", "engine=local,nonsense=1", "MNT"], "nonsense"),
    (["-o", "engine=local,mode=9", "MNT"], "mode"),
    (["-o", "engine=local,mode=rwx", "MNT"], "mode"),
    (["-o", "engine=local,mode=", "MNT"], "mode"),
    (["-o", "engine=local,mode=77777", "MNT"], "mode"),
    (["-o", "engine=local,uid=-5", "MNT"], "uid"),
    (["-o", "engine=local,uid=somebody!", "MNT"], "uid"),
    (["-o", "engine=local,lockspace_flags=fs", "MNT"], "only the engine dlm"),
    (["-o", "engine=local,gid=12x", "MNT"], "gid"),
    (["-o", "engine=local,wait=soon", "MNT"], "wait"),
    (["-o", "engine=local,wait=-1", "MNT"], "wait"),
    (["-o", "engine=local,max_locks=many", "MNT"], "max_locks"),
    (["-o", "engine=local,max_files=1x", "MNT"], "max_files"),
    (["-o", "engine=local,max_waiters=-1", "MNT"], "max_waiters"),
    (["-o", "engine=local,max_locks=99999999999999999999", "MNT"], "max_locks"),
    (["-o", "engine=local", "MNT", "another"], "another.*see --help for the commands"),
    (["list"], "No such file.*make it with mkdir, or see --help for the commands"),
    (["-o", "engine=local", "MNT/missing"], "missing"),
    (["-o", "engine=local", "DIR/plain"], "plain"),
])
def test_a_failure_is_told_with_its_reason(mountpoint, arguments, reason, background):
    """On stderr, in words; nothing is mounted, nothing runs on, the status is not 0."""
    places = {"MNT": str(mountpoint), "DIR": str(mountpoint.parent)}
    arguments = [re.sub("^(MNT|DIR)", lambda place: places[place[1]], argument) for argument in arguments]
    done = lockspacefs(*([] if background else ["-f"]), *arguments)
    assert done.returncode > 0
    assert re.search(reason, done.stderr)
    assert done.stdout == ""
    assert not is_mounted(mountpoint) and not is_mounted(mountpoint.parent / "plain")
    wait_until(lambda: daemons_of(mountpoint) == [])


def test_a_dead_mount_is_told_with_what_to_do(make_daemon, engine):
    daemon = make_daemon()
    daemon.kill()
    daemon.excused = True
    done = lockspacefs("-o", f"engine={engine}", daemon.mountpoint)
    assert done.returncode > 0 and "umount it first" in done.stderr     # dead, or there already, as the kernel knows of it
    umount(daemon.mountpoint, lazily=True)


@pytest.mark.parametrize("options, reason", [
    ("nonsense", "unknown option.*nonsense.*see --help"),
    ("enigne=local", "unknown option.*enigne=local.*see --help"),
    ("engine=paper", "no engine \"paper\""),
])
def test_a_wrong_option_is_told_before_a_missing_cluster(mountpoint, options, reason):
    """As a wrong command line: systemd and Pacemaker need not try again."""
    done = lockspacefs("-o", options, mountpoint)
    assert done.returncode == 2
    assert re.search(reason, done.stderr)


def test_dlm_is_the_default_engine(mountpoint, engine):
    if engine == "local":                       # no cluster here: it says so, and does not fall back
        for options in [[], ["-o", "engine=dlm"], ["-o", "mode=1777"]]:
            done = lockspacefs(*options, mountpoint)
            assert done.returncode > 0
            assert re.search("(?i)dlm", done.stderr)
            assert not is_mounted(mountpoint)
        return
    done = lockspacefs(mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert status(mountpoint)["engine"] == "dlm"
    pid, = daemons_of(mountpoint)
    umount(mountpoint)
    assert wait_for_exit(pid)


def test_a_request_timeout_of_the_kernel_is_refused(mountpoint, engine):
    """The kernel would abort the mount as soon as somebody waits longer for a lock."""
    knobs = [knob for knob in REQUEST_TIMEOUTS if knob.exists()]
    if not knobs:
        release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
        assert release < (6, 15)                # older kernels have no such thing
        return
    for knob in knobs:
        before = knob.read_text()
        knob.write_text("3600")
        try:
            done = lockspacefs("-o", f"engine={engine}", mountpoint)
        finally:
            knob.write_text(before)
        assert done.returncode > 0
        assert knob.name in done.stderr
        assert not is_mounted(mountpoint)


# --- mounting --------------------------------------------------------------------

def test_it_goes_to_the_background_once_the_mount_answers(mountpoint, engine, subreaper):
    done = lockspacefs("-o", f"engine={engine},allow_other", mountpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert is_mounted(mountpoint)
    (mountpoint / "web").mkdir()                # at once, without any waiting
    assert run_as(NOBODY, lambda: os.listdir(mountpoint)) == ["web"]
    (mountpoint / "web").rmdir()
    pid, = daemons_of(mountpoint)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) != os.getsid(0)       # the terminal's hangup is not its own
    for fd in range(3):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
    umount(mountpoint)
    assert end_status(pid) == 0


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_standard_descriptors_may_be_closed(mountpoint, engine, subreaper, closed):
    """Nothing else takes their place, to be replaced by /dev/null later: what wakes the loop, and what brings signals."""
    done = shell(f"exec '{daemon_path()}' -o engine={engine} '{mountpoint}' {closed}")
    assert done.returncode == 0 and is_mounted(mountpoint)
    pid, = daemons_of(mountpoint)
    links = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert {links[fd] for fd in "012"} == {"/dev/null"}
    assert {"anon_inode:[eventfd]", "anon_inode:[signalfd]"} <= set(links.values())
    os.kill(pid, signal.SIGTERM)
    assert end_status(pid) == 0


def test_in_the_background_it_has_nothing_of_its_callers(mountpoint, engine, lockspace):
    """Else a script that mounts under a lock would leave the lock with the daemon."""
    holder = os.open(lockspace / ".ex" / "cron", os.O_RDWR)
    done = lockspacefs("-o", f"engine={engine}", mountpoint, pass_fds=[holder])
    assert done.returncode == 0
    os.close(holder)
    wait_until(lambda: locks(lockspace) == [])
    umount(mountpoint)


def test_an_option_that_is_not_there_is_none(mountpoint, engine):
    done = lockspacefs("-o", "", "-o", ",", "-o", f",,engine={engine},,wait=2,", mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    umount(mountpoint)


def test_in_the_background_it_says_nothing(mountpoint, engine):
    """Nor about lockspaces that are there already."""
    for is_first in [True, False]:
        done = lockspacefs("-o", f"engine={engine},keep" if engine == "dlm" else f"engine={engine}", mountpoint)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pid, = daemons_of(mountpoint)
        if is_first:
            make_lockspace(mountpoint)
        elif engine == "dlm":
            (mountpoint / "web").rmdir()
        umount(mountpoint)
        assert wait_for_exit(pid)


def test_a_relative_mount_point_is_that_of_the_caller(mountpoint, engine, subreaper):
    done = lockspacefs("-o", f"engine={engine}", mountpoint.name, cwd=mountpoint.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_mounted(mountpoint)
    pid, = daemons_of(mountpoint)
    umount(mountpoint)
    assert end_status(pid) == 0


def test_a_mount_point_with_blanks(directory, engine, subreaper):
    path = directory / "two words, and a comma"
    path.mkdir()
    done = lockspacefs("-o", f"engine={engine}", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_mounted(path)
    pid, = daemons_of(path)
    umount(path)
    assert end_status(pid) == 0


def test_in_the_foreground_it_stays(daemon):
    assert daemon.process.poll() is None
    assert daemon.pid in daemons_of(daemon.mountpoint)


def test_the_mount_is_found_by_its_type(mount):
    (_, kind, _), = mounts(mount)
    assert kind == "fuse.lockspacefs"
    assert shell(f"findmnt -n -t fuse.lockspacefs -o TARGET '{mount}'").stdout.strip() == str(mount)
    assert shell(f"df '{mount}'").returncode == 0


def test_the_kernel_checks_permissions(mount):
    assert "default_permissions" in mounts(mount)[0][2]
    assert "allow_other" in mounts(mount)[0][2]


def test_d_traces_operations(make_daemon):
    quiet, verbose = make_daemon(), make_daemon("-d")
    for daemon, name in [(quiet, "one"), (verbose, "two")]:
        (daemon.mountpoint / name).mkdir()
    assert "mkdir" in verbose.log
    assert "mkdir" not in quiet.log


def test_two_daemons_on_two_mount_points(make_daemon):
    one, two = make_daemon(), make_daemon()
    (one.mountpoint / "one").mkdir()
    (two.mountpoint / "two").mkdir()
    one.stop()
    assert "two" in os.listdir(two.mountpoint)


# --- ordinary users --------------------------------------------------------------

def test_a_private_mount_of_an_ordinary_user(make_daemon, engine, fuse_device, directory):
    """By fusermount3, for himself alone. On dlm lockspaces need privilege: it says so."""
    if engine == "dlm":
        (directory / "mine").mkdir()
        done = lockspacefs("-o", "engine=dlm", directory / "mine", user=NOBODY)
        assert done.returncode > 0
        assert re.search("(?i)privilege|permi|root|CAP_SYS_ADMIN", done.stderr)
        return
    daemon = make_daemon(user=NOBODY, allow_other=False)
    mount = daemon.mountpoint

    def use():
        assert (stat.S_IMODE(mount.stat().st_mode), mount.stat().st_uid) == (0o755, NOBODY)
        (mount / "web").mkdir()
        put(mount / "web" / ".ex" / "rev", b"42")
        assert get(mount / "web" / ".pr" / "rev") == b"42"
        with opened(mount / "web" / "job", os.O_RDWR | os.O_CREAT) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with raises_errno(errno.EBUSY):
                (mount / "web").rmdir()
            with raises_errno(errno.EWOULDBLOCK):
                os.open(mount / "web" / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK)
        (mount / "web" / ".force").write_text("1")
        (mount / "web").rmdir()

    run_as(NOBODY, use)
    for uid in [0, SOMEBODY]:
        with raises_errno(errno.EACCES):
            run_as(uid, lambda: os.listdir(mount))
    daemon.stop()                               # fusermount3 -u by its user
    assert not is_mounted(mount)


def test_close_then_try_on_the_mount_of_an_ordinary_user(make_daemon, engine, fuse_device):
    """His max_background is clamped by the kernel; the answer must not depend on it."""
    if engine == "dlm":
        return                                  # no mounts of ordinary users there, see above
    mount = make_daemon(user=NOBODY, allow_other=False).mountpoint

    def race():
        (mount / "web").mkdir()
        touch(mount / "web" / "job")
        for _ in range(300):
            for _ in range(2):
                with opened(mount / "web" / "job") as fd:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (mount / "web").rmdir()

    run_as(NOBODY, race)


def test_an_ordinary_user_may_not_open_it_to_others(directory, engine, fuse_device):
    """Unless fuse.conf says user_allow_other."""
    if re.search("^user_allow_other", Path("/etc/fuse.conf").read_text() if Path("/etc/fuse.conf").exists() else "",
                 re.M):
        pytest.fail("this machine has user_allow_other in /etc/fuse.conf: the test needs one without")
    path = directory / "mine"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    done = lockspacefs("-o", f"engine={engine},allow_other", path, user=NOBODY)
    assert done.returncode > 0
    assert done.stderr != ""
    assert not is_mounted(path)


# --- ending with nothing open ----------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_it(daemon, engine, number):
    make_lockspace(daemon.mountpoint)
    touch(daemon.mountpoint / "web" / "job")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not is_mounted(daemon.mountpoint)
    assert engine == "local" or not Path("/dev/misc/dlm_web").exists()


@pytest.mark.parametrize("command", ["umount", "fusermount3 -u", "umount -l", "fusermount3 -uz"])
def test_unmounting_ends_it(daemon, engine, command):
    make_lockspace(daemon.mountpoint)
    put(daemon.mountpoint / "web" / ".ex" / "rev", b"42")
    subprocess.run([*command.split(), str(daemon.mountpoint)], check=True, timeout=TIMEOUT)
    assert daemon.wait() == 0
    assert not is_mounted(daemon.mountpoint)
    assert engine == "local" or not Path("/dev/misc/dlm_web").exists()


def test_umount_is_ebusy_while_files_are_open(daemon):
    make_lockspace(daemon.mountpoint)
    with opened(daemon.mountpoint / "web" / ".ex" / "job"):
        with raises_errno(errno.EBUSY):
            umount(daemon.mountpoint)
        assert len(locks(daemon.mountpoint / "web")) == 1


def test_after_a_remount_nothing_is_listed(make_daemon, directory, engine):
    """The listing is the mount's own. On dlm, -o keep leaves the lockspaces, and a later mount shows them again."""
    keep = ["keep"] if engine == "dlm" else []
    first = make_daemon(*keep)
    make_lockspace(first.mountpoint)
    touch(first.mountpoint / "web" / "job")
    first.stop()
    second = make_daemon().mountpoint
    if engine == "local":
        assert os.listdir(second) == []
        return
    wait_until(lambda: os.listdir(second) == ["web"])
    assert os.listdir(second / "web") == []
    (second / "web").rmdir()


# --- ending with files open --------------------------------------------------------

def wait_until_detached(path):
    wait_until(lambda: not is_mounted(path), what="the end of the mount")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_detaches_a_mount_in_use_and_keeps_its_locks(daemon, number):
    lockspace = make_lockspace(daemon.mountpoint)
    touch(lockspace / "job")
    witness = os.open(lockspace / "job", os.O_RDWR)
    holder = os.open(lockspace / "job", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    daemon.signal(number)
    wait_until_detached(daemon.mountpoint)
    with raises_errno(errno.ENOENT):
        lockspace.stat()
    assert wait_for_poll(holder, select.POLLIN) & select.POLLHUP
    for operation in [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH | fcntl.LOCK_NB]:
        with raises_errno(errno.EWOULDBLOCK, errno.ESHUTDOWN):
            fcntl.flock(witness, operation)
    os.close(witness)
    assert not wait_for_exit(daemon.pid, 0.5)   # the lock must not vanish under its holder
    os.close(holder)
    assert daemon.wait() == 0


def hold_and_let_wait(kind, lockspace):
    """The descriptor that has the lock, and three who wait for it."""
    touch(lockspace / "job")
    holder = os.open(lockspace / ".ex" / "job", os.O_RDWR)
    children = [Child(kind, lockspace / "job") for _ in range(3)]
    wait_for_waiters(lockspace, 3)
    return holder, children


@pytest.mark.parametrize("kind", [flock_waiter, fcntl_waiter, open_waiter])
def test_a_signal_tells_the_waiters(daemon, kind):
    lockspace = make_lockspace(daemon.mountpoint)
    holder, children = hold_and_let_wait(kind, lockspace)
    daemon.signal(signal.SIGTERM)
    for child in children:
        with raises_errno(errno.ESHUTDOWN):
            child.join()
    assert not wait_for_exit(daemon.pid, 0.5)
    os.close(holder)
    assert daemon.wait() == 0


def test_nobody_begins_to_wait_after_a_signal(daemon):
    lockspace = make_lockspace(daemon.mountpoint)
    touch(lockspace / "job")
    holder = os.open(lockspace / ".ex" / "job", os.O_RDWR)
    child_file = os.open(lockspace / "job", os.O_RDWR)
    daemon.signal(signal.SIGTERM)
    wait_until_detached(daemon.mountpoint)
    assert wait_for_poll(child_file, select.POLLIN) & select.POLLHUP
    with raises_errno(errno.ESHUTDOWN):
        Child(lambda peer: fcntl.flock(child_file, fcntl.LOCK_EX), keep=[child_file]).join()
    os.close(child_file)
    os.close(holder)
    assert daemon.wait() == 0


def test_a_holder_in_poll_is_woken_by_a_signal_to_the_daemon(daemon):
    lockspace = make_lockspace(daemon.mountpoint)

    def poller(peer):
        with opened(lockspace / ".ex" / "job") as fd:
            peer.say("holds")
            return wait_for_poll(fd, 0)

    child = Child(poller)
    child.wait_for("holds")
    daemon.signal(signal.SIGTERM)
    assert child.join() & select.POLLHUP
    assert daemon.wait() == 0


def test_a_holder_still_writes_and_publishes_after_a_signal(daemon):
    lockspace = make_lockspace(daemon.mountpoint)
    touch(lockspace / "rev")
    reader = os.open(lockspace / "rev", os.O_RDONLY)
    holder = os.open(lockspace / ".ex" / "rev", os.O_RDWR)
    daemon.signal(signal.SIGTERM)
    wait_until_detached(daemon.mountpoint)
    assert os.write(holder, b"42") == 2
    os.fsync(holder)
    assert os.pread(reader, 100, 0) == b"42"
    os.close(holder)
    os.close(reader)
    assert daemon.wait() == 0


def test_the_daemon_of_one_machine_has_one_thread(daemon, engine):
    """Each lock would cost more with two: malloc, read and write of the C library look."""
    lockspace = make_lockspace(daemon.mountpoint)
    with opened(lockspace / "job", os.O_RDWR | os.O_CREAT) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        threads = os.listdir(f"/proc/{daemon.process.pid}/task")
    assert len(threads) == 1 if engine == "local" else len(threads) > 1


def test_an_idle_open_file_holds_the_daemon_until_it_is_closed(daemon):
    lockspace = make_lockspace(daemon.mountpoint)
    touch(lockspace / "job")
    fd = os.open(lockspace / "job", os.O_RDWR)
    daemon.signal(signal.SIGTERM)
    wait_until_detached(daemon.mountpoint)
    os.close(fd)
    assert daemon.wait() == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_it_at_once(daemon, first, second):
    lockspace = make_lockspace(daemon.mountpoint)
    holder = os.open(lockspace / ".ex" / "job", os.O_RDWR)
    daemon.signal(first)
    wait_until_detached(daemon.mountpoint)
    assert daemon.process.poll() is None
    daemon.signal(second)
    assert daemon.wait(5) == 0
    with raises_errno(errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN):
        os.pread(holder, 1, 0)
    with contextlib.suppress(OSError):
        os.close(holder)


def mount_anew(daemon, engine):
    """Where that one was mounted."""
    place = daemon.directory / "new"
    place.mkdir()
    new = Daemon(place, engine=engine)
    new.mountpoint = daemon.mountpoint
    return new


@pytest.mark.parametrize("way", ["the last close", "a second signal", "a signal after umount -l"])
def test_a_daemon_that_ends_leaves_what_was_mounted_after_it(make_daemon, engine, way):
    daemon = make_daemon()
    root = os.open(daemon.mountpoint, os.O_PATH)        # as a shell's directory, keeps the mount itself alive
    holder = os.open(make_lockspace(daemon.mountpoint) / ".ex" / "job", os.O_RDWR)
    if way == "a signal after umount -l":
        umount(daemon.mountpoint, lazily=True)
    else:
        daemon.signal(signal.SIGTERM)
    wait_until_detached(daemon.mountpoint)
    with mount_anew(daemon, engine) as new:
        if way == "a signal after umount -l":           # it goes on for who has a file open
            daemon.signal(signal.SIGTERM)
            assert wait_for_poll(holder, 0) & select.POLLHUP
            assert is_mounted(new.mountpoint)
        if way == "a second signal":
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        with contextlib.suppress(OSError):
            os.close(holder)
        assert daemon.wait() == 0
        os.close(root)
        assert status(new.mountpoint)["pid"] == new.pid
        with opened(make_lockspace(new.mountpoint, "new") / ".ex" / "job") as fd:
            assert os.write(fd, b"served") == 6


def test_a_daemon_that_ends_leaves_what_covers_it(make_daemon):
    daemon = make_daemon()
    with opened(make_lockspace(daemon.mountpoint) / ".ex" / "job") as holder:
        subprocess.run(["mount", "-t", "tmpfs", "none", daemon.mountpoint], check=True)
        touch(daemon.mountpoint / "data")
        daemon.signal(signal.SIGTERM)
        assert wait_for_poll(holder, 0) & select.POLLHUP
        assert os.listdir(daemon.mountpoint) == ["data"]
    assert daemon.wait() == 0
    assert os.listdir(daemon.mountpoint) == ["data"]
    subprocess.run(["umount", daemon.mountpoint], check=True)


@pytest.mark.parametrize("kind", [flock_waiter, fcntl_waiter, open_waiter])
def test_a_connection_that_breaks_under_those_who_wait_ends_it_well(daemon, kind):
    """umount -f breaks it, though it may say that the mount is busy."""
    lockspace = make_lockspace(daemon.mountpoint)
    holder, children = hold_and_let_wait(kind, lockspace)
    subprocess.run(["umount", "-i", "-f", daemon.mountpoint], stderr=subprocess.DEVNULL, check=False)
    for child in children:
        with raises_errno(errno.ECONNABORTED, errno.ENOTCONN):
            child.join()
    assert daemon.wait() == 0
    with contextlib.suppress(OSError):
        os.close(holder)


def test_umount_l_keeps_serving_until_the_last_close(daemon):
    lockspace = make_lockspace(daemon.mountpoint)
    touch(lockspace / "job")
    one, two = os.open(lockspace / "job", os.O_RDWR), os.open(lockspace / "job", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    umount(daemon.mountpoint, lazily=True)
    with raises_errno(errno.EWOULDBLOCK):
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(one, b"42")
    os.close(one)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.pread(two, 100, 0) == b"42"
    assert daemon.process.poll() is None
    os.close(two)
    assert daemon.wait() == 0


def test_a_killed_daemon_lets_go_of_everybody(directory, engine):
    """SIGKILL: waiters and holders learn it at once, nobody hangs, and the place can be mounted again."""
    with Daemon(directory, engine=engine) as daemon:
        lockspace = make_lockspace(daemon.mountpoint)
        touch(lockspace / "job")
        holder = os.open(lockspace / ".ex" / "job", os.O_RDWR)
        children = [Child(kind, lockspace / "job") for kind in [flock_waiter, fcntl_waiter, open_waiter]]
        wait_for_waiters(lockspace, 3)
        begin = time.monotonic()
        daemon.kill()
        for child in children:
            with raises_errno(errno.ECONNABORTED, errno.ENOTCONN):
                child.join()
        assert time.monotonic() - begin < 5
        with raises_errno(errno.ENOTCONN, errno.ECONNABORTED):
            os.pread(holder, 1, 0)
        with contextlib.suppress(OSError):
            os.close(holder)
        umount(daemon.mountpoint, lazily=True)
        daemon.start()                          # and `with` sees that one end well
        if engine == "local":
            assert os.listdir(daemon.mountpoint) == []
        else:
            wait_until(lambda: os.listdir(daemon.mountpoint) == ["web"])
            (daemon.mountpoint / "web").rmdir()
