"""No operation that a person can try ends in ENOSYS: it works, or says what a person expects."""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import stat
import struct
import subprocess

import pytest

from lockspacefs_test import (MODES, NOBODY, TIMEOUT, Child, get, locks, make_lockspace, opened, put, raises_errno, run_as, shell,
                              touch, wait_for_poll)

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FIEMAP, FICLONE = 0x80086601, 0x40086602, 0xc020660b, 0x40049409
FIBMAP, FIGETBSZ, TCGETS = 1, 2, 0x5401
OPENAT2, FILE_GETATTR, FILE_SETATTR = 437, 468, 469     # the same numbers everywhere
F_SETLEASE, F_NOTIFY = 1024, 1026
IN_CREATE, IN_DELETE = 0x100, 0x200
REFUSED = (errno.EPERM, errno.EACCES)


def call(name, *arguments):
    """A C function of libc: its result, or OSError."""
    result = getattr(libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


# --- what is refused ---------------------------------------------------------------

def test_link_is_eperm(lockspace, job, directory):
    with raises_errno(errno.EPERM):
        os.link(job, lockspace / "other")
    with raises_errno(errno.EPERM):
        os.link(lockspace / ".locks", lockspace / "other")
    with raises_errno(errno.EPERM, errno.EEXIST):           # every name is there
        os.link(job, lockspace / ".ex" / "link")
    with raises_errno(errno.EXDEV):
        os.link(job, directory / "other")
    assert os.listdir(lockspace) == ["job"]


def test_symlink_is_eperm(mount, lockspace):
    for parent in [lockspace, lockspace / ".ex", mount]:
        with raises_errno(errno.EPERM, *([errno.EEXIST] if parent == lockspace / ".ex" else [])):
            os.symlink("target", parent / "link")
    assert os.listdir(lockspace) == []


def test_rename_is_eperm(mount, lockspace, job):
    other = make_lockspace(mount, "other")
    touch(lockspace / "second")
    for source, target in [(job, lockspace / "third"), (job, lockspace / "second"), (job, other / "job"),
                           (lockspace, mount / "new"),
                           (lockspace, other), (job, lockspace / ".ex" / "third"),
                           (lockspace / ".locks", lockspace / "third"),
                           (lockspace / ".ex", lockspace / "third")]:
        with raises_errno(errno.EPERM):
            os.rename(source, target)
    assert sorted(os.listdir(lockspace)) == ["job", "second"]
    assert sorted(os.listdir(mount)) == ["other", "web"]
    assert get(job) == b"42"


@pytest.mark.parametrize("flags", [RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT])
def test_renameat2_is_refused(lockspace, job, flags):
    touch(lockspace / "second")
    target = lockspace / ("second" if flags == RENAME_EXCHANGE else "third")
    with raises_errno(errno.EPERM, errno.EINVAL):
        call("renameat2", AT_FDCWD, os.fsencode(job), AT_FDCWD, os.fsencode(target), flags)


def test_mv_says_why(lockspace, job):
    done = shell("LC_ALL=C mv job other", cwd=lockspace)
    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr
    assert os.listdir(lockspace) == ["job"]


def test_mkdir_inside_a_lockspace_is_eperm(lockspace):
    with raises_errno(errno.EPERM):
        os.mkdir(lockspace / "directory")
    with raises_errno(errno.EPERM, errno.EEXIST):
        os.mkdir(lockspace / ".ex" / "directory")
    assert os.listdir(lockspace) == []


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_mknod_of_anything_else_is_eperm(mount, lockspace, kind):
    for parent in [lockspace, mount]:
        with raises_errno(errno.EPERM, *([errno.EACCES] if parent == mount else [])):
            os.mknod(parent / "node", kind | 0o644, os.makedev(1, 3))
    with raises_errno(errno.EPERM, errno.EEXIST):
        os.mknod(lockspace / ".ex" / "node", kind | 0o644, os.makedev(1, 3))
    assert os.listdir(lockspace) == []


def test_bind_of_a_socket_is_eperm(lockspace):
    with socket.socket(socket.AF_UNIX) as sock, opened(lockspace, os.O_PATH) as directory:
        with raises_errno(errno.EPERM):
            sock.bind(f"/proc/self/fd/{directory}/s")


def test_an_unnamed_file_is_not_supported(mount, lockspace):
    for parent in [mount, lockspace, lockspace / ".ex"]:
        with raises_errno(errno.EOPNOTSUPP, errno.EPERM, errno.EISDIR):
            os.open(parent, os.O_TMPFILE | os.O_RDWR)


def test_a_lock_file_is_no_program(job):
    with raises_errno(errno.EACCES):
        Child(lambda peer: os.execv(job, ["job"])).join()


def test_unlink_in_a_mode_directory_is_refused(lockspace, job):
    with raises_errno(errno.EPERM):
        os.unlink(lockspace / ".ex" / "job")
    assert os.listdir(lockspace) == ["job"]


def test_mmap_shared_is_enodev(lockspace):
    """Nothing is cached by the kernel, so nothing can be shared through its cache."""
    put(lockspace / ".ex" / "job", b"x" * 32)
    with opened(lockspace / ".ex" / "job") as fd:
        with raises_errno(errno.ENODEV):
            mmap.mmap(fd, 32, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


# --- directories where files are expected, and the other way round ------------------

def test_a_directory_is_no_file(mount, lockspace):
    for path in [mount, lockspace, lockspace / ".ex"]:
        with raises_errno(errno.EISDIR):
            os.open(path, os.O_RDWR)
        with raises_errno(errno.EISDIR):
            os.truncate(path, 0)
        with opened(path, os.O_RDONLY) as fd:
            with raises_errno(errno.EISDIR):
                os.read(fd, 10)


def test_a_file_is_no_directory(mount, lockspace, job):
    for path in [job, lockspace / ".ex" / "job", lockspace / ".locks", lockspace / ".force", mount / ".status"]:
        with raises_errno(errno.ENOTDIR):
            os.listdir(path)
        with raises_errno(errno.ENOTDIR):
            os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with raises_errno(errno.ENOTDIR):
            os.stat(path / "deeper")
        with raises_errno(errno.EINVAL):
            os.readlink(path)


# --- ioctl, space, offsets -----------------------------------------------------------

@pytest.mark.parametrize("request_number", [TCGETS, 0x1234, 0x12345678])
def test_an_unknown_ioctl_is_enotty(mount, lockspace, job, request_number):
    for path in [job, lockspace / ".ex" / "job", lockspace / ".locks", lockspace / ".force", mount / ".status",
                 lockspace, mount]:
        with opened(path, os.O_RDONLY) as fd:
            with raises_errno(errno.ENOTTY):
                fcntl.ioctl(fd, request_number, bytearray(64))
            assert not os.isatty(fd)


@pytest.mark.parametrize("request_number", [FS_IOC_FIEMAP, FIBMAP, FIGETBSZ, FICLONE])
def test_the_kernels_own_ioctls(job, request_number):
    """They may be answered, or refused; but not by "not implemented"."""
    with opened(job, os.O_RDWR) as fd:
        try:
            fcntl.ioctl(fd, request_number, bytearray(64))
        except OSError as error:
            assert error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.EBADF)


@pytest.mark.parametrize("request_number", [FS_IOC_GETFLAGS, FS_IOC_SETFLAGS])
@pytest.mark.parametrize("place", [".", ".ex", "job", ".nl/job", ".locks", ".force"])
def test_file_flags_are_not_supported(lockspace, job, place, request_number):
    """lsattr(1) and chattr(1). EOPNOTSUPP is what newer kernels make of ENOTTY."""
    with opened(lockspace / place, os.O_RDONLY) as fd:
        with raises_errno(errno.ENOTTY, errno.EOPNOTSUPP):
            fcntl.ioctl(fd, request_number, bytearray(64))


def test_asking_for_file_flags_does_not_wait_for_the_callers_own_lock(lockspace, job):
    """For these ioctls the kernel opens the file once more, in `.ex` behind the lock of the caller himself."""
    def ask(peer):
        with opened(lockspace / ".ex" / "job") as fd:
            peer.say("asks")
            fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytearray(64))

    child = Child(ask)
    child.wait_for("asks")
    with raises_errno(errno.ENOTTY, errno.EOPNOTSUPP):
        child.join()
    with opened(lockspace / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK):
        pass


def test_an_ioctl_in_a_mode_directory_never_waits_whatever_wakes_its_caller(lockspace, job):
    """Signals come just when the daemon looks what he is doing, and find him awake."""
    def ask(peer):
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.siginterrupt(signal.SIGALRM, True)
        with opened(lockspace / ".ex" / "job") as fd:
            signal.setitimer(signal.ITIMER_REAL, 0.00004, 0.0002)
            for _ in range(1000):
                with raises_errno(errno.ENOTTY, errno.EOPNOTSUPP):
                    call("ioctl", fd, FS_IOC_GETFLAGS, bytes(64))
            signal.setitimer(signal.ITIMER_REAL, 0)

    Child(ask).join()


def file_attributes(number, path):
    """file_getattr(2) or file_setattr(2), or OSError. Linux before 6.17 says ENOSYS."""
    call("syscall", number, AT_FDCWD, os.fsencode(path), bytes(24), ctypes.c_size_t(24), 0)


def nobody_waits_for(fd, lockspace):
    """It is the only lock, and nobody has waited for it either."""
    return len(locks(lockspace)) == 1 and wait_for_poll(fd, select.POLLPRI, 0) == 0


@pytest.mark.parametrize("number", [FILE_GETATTR, FILE_SETATTR], ids=["get", "set"])
def test_file_attributes_are_not_supported_and_take_no_lock(lockspace, job, number):
    """For these calls, too, the kernel opens the file once more."""
    def ask(peer):
        with opened(lockspace / ".ex" / "job") as fd:
            for place in [".ex/job", ".nl/job", "job"]:
                with raises_errno(errno.EOPNOTSUPP, errno.ENOSYS):
                    file_attributes(number, lockspace / place)
            assert nobody_waits_for(fd, lockspace)

    Child(ask).join()


@pytest.mark.parametrize("number, refusal", [(FILE_GETATTR, errno.EACCES), (FILE_SETATTR, errno.EPERM)], ids=["get", "set"])
def test_file_attributes_take_no_lock_for_who_may_not_have_it(lockspace, job, number, refusal):
    """The kernel looks at no permission of the file for them."""
    job.chmod(0o600)
    with opened(lockspace / ".ex" / "job") as fd:
        for mode in MODES:
            with raises_errno(refusal, errno.ENOSYS):
                run_as(NOBODY, lambda: file_attributes(number, lockspace / f".{mode}" / "job"))
        assert nobody_waits_for(fd, lockspace)


@pytest.mark.parametrize("bits, expected", [(0o600, [errno.EACCES]), (0o644, [errno.ENOTTY, errno.EOPNOTSUPP])],
                         ids=["closed", "readable"])
def test_file_flags_of_an_inherited_descriptor_are_for_who_may_open_it(lockspace, job, bits, expected):
    job.chmod(bits)
    with opened(lockspace / ".pr" / "job", os.O_RDONLY) as fd:
        with raises_errno(*expected):
            Child(lambda peer: fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)), uid=NOBODY, keep=[fd]).join()
        assert nobody_waits_for(fd, lockspace)


def test_lsattr_says_so(job):
    done = shell("LC_ALL=C lsattr job", cwd=job.parent)
    assert done.returncode != 0
    assert "Inappropriate ioctl" in done.stderr or "not supported" in done.stderr


@pytest.mark.parametrize("mode", [0, 1, 3, 16])
def test_fallocate_is_not_supported(lockspace, mode):
    with opened(lockspace / ".ex" / "job") as fd:
        with raises_errno(errno.EOPNOTSUPP):
            call("fallocate", fd, mode, ctypes.c_long(0), ctypes.c_long(16))


def test_seeking_for_data_and_holes(lockspace, job):
    for path in [job, lockspace / ".pr" / "job"]:
        with opened(path, os.O_RDONLY) as fd:
            assert os.lseek(fd, 0, os.SEEK_DATA) == 0
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 2
            assert os.lseek(fd, 0, os.SEEK_END) == 2
            assert os.lseek(fd, 1, os.SEEK_SET) == 1
            assert os.read(fd, 10) == b"2"
            with raises_errno(errno.ENXIO):
                os.lseek(fd, 2, os.SEEK_DATA)


def test_seeking_in_the_tables(mount, lockspace):
    for path in [lockspace / ".locks", lockspace / ".force", mount / ".status"]:
        with opened(path, os.O_RDONLY) as fd:
            whole = os.read(fd, 65536)
            assert os.lseek(fd, 1, os.SEEK_SET) == 1
            assert os.read(fd, 65536)[:1] == whole[1:2]
            for whence in [os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE]:
                try:
                    os.lseek(fd, 0, whence)
                except OSError as error:
                    assert error.errno in (errno.ENXIO, errno.EINVAL)


def test_copy_file_range(lockspace, job, directory):
    """Within the mount, from it and into it: works, or falls back like cp does."""
    (directory / "plain").write_bytes(b"plain")
    pairs = [(job, lockspace / ".ex" / "copy"), (job, directory / "out"),
             (directory / "plain", lockspace / ".ex" / "in")]
    for source, target in pairs:
        with opened(source, os.O_RDONLY) as fd_in, opened(target, os.O_RDWR | os.O_CREAT) as fd_out:
            try:
                assert os.copy_file_range(fd_in, fd_out, 32) == len(get(source))
            except OSError as error:
                assert error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL)
        done = shell(f"cp '{source}' '{target}'")
        assert (done.returncode, done.stderr) == (0, "")
        if target.parent.name == ".ex":
            target = lockspace / target.name
        assert get(target) == get(source)


# --- moving data without read and write -----------------------------------------------

def test_sendfile_and_splice_out(lockspace, job):
    for path in [job, lockspace / ".pr" / "job"]:
        reader, writer = os.pipe()
        with opened(path, os.O_RDONLY) as fd:
            assert os.sendfile(writer, fd, 0, 100) == 2
            assert os.read(reader, 100) == b"42"
            assert os.splice(fd, writer, 100, offset_src=0) == 2
            assert os.read(reader, 100) == b"42"
        os.close(reader)
        os.close(writer)


def test_splice_and_sendfile_in(lockspace, job, directory):
    reader, writer = os.pipe()
    os.write(writer, b"7")
    with opened(lockspace / ".ex" / "job") as fd:
        assert os.splice(reader, fd, 1, offset_dst=0) == 1
        assert os.pread(fd, 100, 0) == b"72"
    (directory / "plain").write_bytes(b"abc")
    with opened(lockspace / ".ex" / "job") as fd, opened(directory / "plain", os.O_RDONLY) as source:
        assert os.sendfile(fd, source, 0, 3) == 3
    assert get(job) == b"abc"
    os.write(writer, b"9")
    with opened(job) as fd, raises_errno(errno.ENOLCK):
        os.splice(reader, fd, 1, offset_dst=0)
    os.close(reader)
    os.close(writer)


def test_vectors(lockspace, job):
    with opened(lockspace / ".ex" / "job") as fd:
        assert os.writev(fd, [b"ab", b"cd"]) == 4
        buffers = [bytearray(1), bytearray(10)]
        assert os.preadv(fd, buffers, 0) == 4
        assert (buffers[0], buffers[1][:3]) == (b"a", b"bcd")
        assert os.pwritev(fd, [b"x", b"y"], 1) == 2
        assert os.pread(fd, 100, 0) == b"axyd"
        try:                                    # the kernel may send each buffer as a write of its own
            assert os.writev(fd, [b"x" * 20, b"y" * 20]) == 20
            assert os.pread(fd, 100, 0) == b"axyd" + b"x" * 20
        except OSError as error:
            assert error.errno == errno.EFBIG


def test_a_direct_read(job):
    with opened(job, os.O_RDONLY | os.O_DIRECT) as fd:
        buffer = mmap.mmap(-1, 4096)
        assert os.readv(fd, [buffer]) == 2
        assert buffer[:2] == b"42"


def test_a_private_mapping_reads_the_value_or_says_enodev(lockspace, job):
    with opened(job, os.O_RDONLY) as fd:
        try:
            with mmap.mmap(fd, 2, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping:
                assert mapping[:2] == b"42"
        except OSError as error:
            assert error.errno == errno.ENODEV


# --- syncing -----------------------------------------------------------------------------

def test_everything_syncs(mount, lockspace, job):
    for path in [mount, lockspace, lockspace / ".ex", job, lockspace / ".ex" / "job", lockspace / ".locks",
                 lockspace / ".force",
                 mount / ".status"]:
        with opened(path, os.O_RDONLY) as fd:
            os.fsync(fd)
            os.fdatasync(fd)
            call("syncfs", fd)
    with opened(job) as fd:
        call("sync_file_range", fd, ctypes.c_long(0), ctypes.c_long(0), 7)
    os.sync()
    assert shell("sync web/job", cwd=mount).returncode == 0


def test_advice_is_taken(job):
    with opened(job) as fd:
        for advice in [os.POSIX_FADV_NORMAL, os.POSIX_FADV_DONTNEED, os.POSIX_FADV_WILLNEED, os.POSIX_FADV_SEQUENTIAL]:
            os.posix_fadvise(fd, 0, 0, advice)


# --- attributes ----------------------------------------------------------------------------

def test_unknown_xattrs_are_not_there(mount, lockspace, job):
    for path in [mount, lockspace, lockspace / ".ex", job, lockspace / ".ex" / "job", lockspace / ".locks",
                 mount / ".status"]:
        with raises_errno(errno.ENODATA,
                          errno.EPERM):          # EPERM: the kernel's word for user.* where it does not fit
            os.getxattr(path, "user.unknown")
        for name in ["trusted.unknown", "security.selinux", "security.capability"]:
            with raises_errno(errno.ENODATA, errno.EOPNOTSUPP):
                os.getxattr(path, name)
        for name in ["system.posix_acl_access", "nonsense"]:
            with raises_errno(errno.ENODATA, errno.EOPNOTSUPP):
                os.getxattr(path, name)
        os.listxattr(path)


def test_other_xattrs_are_not_set(mount, lockspace, job):
    for path in [mount, lockspace, lockspace / ".ex", job, lockspace / ".locks", mount / ".status"]:
        for name in ["user.unknown", "trusted.unknown", "security.selinux", "system.posix_acl_access"]:
            with raises_errno(errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL):
                os.setxattr(path, name, b"x")
            with raises_errno(errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENODATA):
                os.removexattr(path, name)
    assert get(job) == b"42"


def test_ls_l_is_quiet(mount, lockspace, job):
    done = shell("LC_ALL=C ls -laR . .. web/.locks .status", cwd=mount)
    assert (done.returncode, done.stderr) == (0, "")


def test_statfs_and_statx(mount, lockspace, job):
    for path in [mount, lockspace, job, lockspace / ".ex", lockspace / ".locks"]:
        seen = os.statvfs(path)
        assert seen.f_namemax >= 3 * 64         # the longest name of a resource, all of it encoded
        assert seen.f_bsize > 0
        assert seen.f_files == 0 or seen.f_ffree > 0        # `df -i` must not cry "100 % used"
        assert shell(f"stat -f '{path}' && stat '{path}'").returncode == 0


def test_times_by_descriptor(job):
    with opened(job) as fd:
        os.utime(fd, ns=(5, 7))
        assert (os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns) == (5, 7)
        os.fchmod(fd, 0o600)
        os.fchown(fd, 1, 1)
        seen = os.fstat(fd)
        assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o600, 1, 1)
    assert subprocess.run(["touch", "-d", "@1000000000", job], timeout=TIMEOUT, check=False).returncode == 0
    assert job.stat().st_mtime == 1000000000


def test_times_and_permissions_of_the_dot_names_are_answered(mount, lockspace):
    """Taken or refused, both are fine."""
    for path in [mount / ".status", lockspace / ".locks", lockspace / ".force", lockspace / ".ex",
                 lockspace / ".ex" / "job"]:
        for change in [lambda: os.utime(path), lambda: os.chmod(path, 0o644), lambda: os.chown(path, 0, 0)]:
            try:
                change()
            except OSError as error:
                assert error.errno in REFUSED


def test_access_tells_what_open_would(lockspace, job):
    job.chmod(0o444)
    assert os.access(job, os.R_OK) and os.access(lockspace, os.R_OK | os.W_OK | os.X_OK)
    assert not os.access(job, os.X_OK)
    assert not os.access(lockspace / "missing", os.F_OK)


# --- handles, watches, leases --------------------------------------------------------------------

def test_file_handles(lockspace, job):
    """name_to_handle_at and open_by_handle_at: the same file, or a word that means "no"."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    try:
        call("name_to_handle_at", AT_FDCWD, os.fsencode(job), buffer, ctypes.byref(mount_id), 0)
    except OSError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.EOVERFLOW)
        return
    with opened(lockspace, os.O_RDONLY) as directory:
        try:
            fd = call("open_by_handle_at", directory, buffer, os.O_RDONLY)
        except OSError as error:
            assert error.errno in (errno.ESTALE, errno.EPERM)
        else:
            assert os.fstat(fd).st_ino == job.stat().st_ino
            os.close(fd)


def test_inotify_sees_this_mounts_calls(lockspace):
    watch = call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
    call("inotify_add_watch", watch, os.fsencode(lockspace), IN_CREATE | IN_DELETE)
    touch(lockspace / "job")
    os.unlink(lockspace / "job")
    assert wait_for_poll(watch, select.POLLIN)
    data = os.read(watch, 4096)
    masks = []
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        masks.append(mask)
        data = data[16 + length:]
    assert masks == [IN_CREATE, IN_DELETE]
    os.close(watch)


def test_leases_are_answered(job):
    with opened(job, os.O_RDONLY) as fd:
        try:
            fcntl.fcntl(fd, F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.EAGAIN, errno.EOPNOTSUPP)


def test_ordinary_descriptor_calls(lockspace, job):
    with opened(lockspace / ".ex" / "job") as fd:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND | os.O_NONBLOCK)
        assert os.write(fd, b"7") == 1
        assert os.pread(fd, 100, 0) == b"427"
        os.close(os.dup(fd))
        assert os.pread(fd, 100, 0) == b"427"


# --- one net over everything ----------------------------------------------------------------------

def openat2(path):
    """open(2) with O_RDONLY, by the newest of its forms."""
    os.close(call("syscall", OPENAT2, AT_FDCWD, os.fsencode(path), struct.pack("QQQ", 0, 0, 0), 24))


OPERATIONS = {
    "link": lambda path: os.link(path, f"{path}-2"),
    "symlink": lambda path: os.symlink("x", f"{path}-2"),
    "rename": lambda path: os.rename(path, f"{path}-2"),
    "mkdir": lambda path: os.mkdir(path / "x"),
    "rmdir": lambda path: os.rmdir(path / "x"),
    "unlink": lambda path: os.unlink(path / "x"),
    "mknod": lambda path: os.mknod(path / "x"),
    "fifo": lambda path: os.mkfifo(path / "x"),
    "readlink": os.readlink,
    "truncate": lambda path: os.truncate(path, 1),
    "utime": os.utime,
    "chmod": lambda path: os.chmod(path, 0o700),
    "chown": lambda path: os.chown(path, 0, 0),
    "access": lambda path: os.access(path, os.R_OK | os.W_OK | os.X_OK),
    "statvfs": os.statvfs,
    "stat": os.stat,
    "getxattr": lambda path: os.getxattr(path, "user.x"),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"x"),
    "listxattr": os.listxattr,
    "removexattr": lambda path: os.removexattr(path, "user.x"),
    "open an unnamed file": lambda path: os.close(os.open(path, os.O_TMPFILE | os.O_RDWR)),
    "open to append": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
    "open and truncate": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "openat2": openat2,
}
FD_OPERATIONS = {
    "read": lambda fd: os.read(fd, 100),
    "pread": lambda fd: os.pread(fd, 1, 1),
    "write": lambda fd: os.write(fd, b"1"),
    "ftruncate": lambda fd: os.ftruncate(fd, 0),
    "fallocate": lambda fd: call("fallocate", fd, 0, ctypes.c_long(0), ctypes.c_long(1)),
    "fsync": os.fsync,
    "fdatasync": os.fdatasync,
    "syncfs": lambda fd: call("syncfs", fd),
    "fstat": os.fstat,
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "funlock": lambda fd: fcntl.flock(fd, fcntl.LOCK_UN),
    "setlk": lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "getlk": lambda fd: fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)),
    "unlk": lambda fd: fcntl.lockf(fd, fcntl.LOCK_UN),
    "ioctl": lambda fd: fcntl.ioctl(fd, 0x1234, bytearray(16)),
    "seek to the end": lambda fd: os.lseek(fd, 0, os.SEEK_END),
    "seek for data": lambda fd: os.lseek(fd, 0, os.SEEK_DATA),
    "poll": lambda fd: wait_for_poll(fd, select.POLLIN, 0),
    "getdents": os.listdir,
    "mmap": lambda fd: mmap.mmap(fd, 1),
    "readahead": lambda fd: call("readahead", fd, ctypes.c_long(0), 10),
    "lease": lambda fd: fcntl.fcntl(fd, F_SETLEASE, fcntl.F_WRLCK),
    "dnotify": lambda fd: fcntl.fcntl(fd, F_NOTIFY, 0),
}
PLACES = ["", "web", "web/job", "web/.locks", "web/.force", ".status", *(f"web/.{mode}" for mode in MODES),
          *(f"web/.{mode}/job" for mode in MODES)]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_unimplemented_anywhere(mount, lockspace, job, place):
    path = mount / place if place else mount
    seen = {}
    for name, operation in OPERATIONS.items():
        try:
            operation(path)
        except OSError as error:
            seen[name] = error.errno
        except ValueError:                      # Python's own objection: mmap of an empty file
            pass
        touch(lockspace / "job")
    for flags in [os.O_RDONLY, os.O_RDWR]:
        try:
            fd = os.open(path, flags)
        except OSError as error:
            seen["open", flags] = error.errno
            continue
        for name, operation in FD_OPERATIONS.items():
            try:
                operation(fd)
            except OSError as error:
                seen[name, flags] = error.errno
            except ValueError:
                pass
        os.close(fd)
    bad = (errno.ENOSYS, errno.EIO, errno.EPROTO, errno.ENOTCONN, errno.ECONNABORTED)
    assert {name: errno.errorcode[number] for name, number in seen.items() if number in bad} == {}
    with opened(lockspace / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK):      # and nothing is left of it all
        pass
