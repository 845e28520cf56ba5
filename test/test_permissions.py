"""Who may do what: the permission bits, the groups, and the rules that the daemon itself checks."""

import errno
import fcntl
import os
import socket
import stat

import pytest

from lockspacefs_test import (GROUP, MODES, NOBODY, OTHER_GROUP, SOMEBODY, Child, as_user, errno_of, get, make_lockspace,
                              opened, put, raises_errno, run_as, touch, umask)

READ_IS_ENOUGH = ["nl", "cr", "pr"]
FLAGS = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR]


def make_file(lockspace, mode, uid=0, gid=0, name="job"):
    touch(lockspace / name)
    os.chmod(lockspace / name, mode)
    os.chown(lockspace / name, uid, gid)
    return lockspace / name


# --- the root and its lockspaces ---------------------------------------------

def test_the_root_belongs_to_the_mounting_user(mount):
    seen = mount.stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o755, 0, 0)


def test_by_default_the_mounting_user_alone_makes_lockspaces(mount):
    for uid in [NOBODY, SOMEBODY]:
        with raises_errno(errno.EACCES):
            run_as(uid, lambda: os.mkdir(mount / "web"))
    (mount / "web").mkdir()


def test_the_owner_of_the_mount_may_be_a_name(make_daemon):
    assert make_daemon("uid=nobody").mountpoint.stat().st_uid == NOBODY


def test_mount_options_say_who_makes_lockspaces(make_daemon):
    mount = make_daemon("mode=770", f"uid={SOMEBODY}", f"gid={GROUP}").mountpoint
    seen = mount.stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o770, SOMEBODY, GROUP)
    run_as(SOMEBODY, lambda: os.mkdir(mount / "owner"))
    run_as(NOBODY, lambda: os.mkdir(mount / "group"), groups=[GROUP])
    with raises_errno(errno.EACCES):
        run_as(NOBODY, lambda: os.mkdir(mount / "other"))
    (mount / "root").mkdir()
    assert sorted(os.listdir(mount)) == ["group", "owner", "root"]


def test_with_mode_1777_everybody_makes_lockspaces(make_daemon):
    mount = make_daemon("mode=1777").mountpoint
    assert stat.S_IMODE(mount.stat().st_mode) == 0o1777
    run_as(NOBODY, lambda: os.mkdir(mount / "nobodys"))
    run_as(SOMEBODY, lambda: os.mkdir(mount / "somebodys"))
    assert (mount / "nobodys").stat().st_uid == NOBODY


@pytest.mark.parametrize("root_mode", ["1777", "777"])
def test_only_its_owner_and_root_release_a_lockspace(make_daemon, root_mode):
    """Whatever the mode of the lockspace, and of the root, too: the daemon checks it itself."""
    mount = make_daemon(f"mode={root_mode}").mountpoint
    for name in ["one", "two"]:
        run_as(NOBODY, lambda: make_lockspace(mount, name, 0o777))
    with raises_errno(errno.EPERM, errno.EACCES):
        run_as(SOMEBODY, lambda: os.rmdir(mount / "one"))
    with raises_errno(errno.EPERM, errno.EACCES):
        run_as(SOMEBODY, lambda: os.rmdir(mount / "one"), gid=NOBODY, groups=[NOBODY])
    run_as(NOBODY, lambda: os.rmdir(mount / "one"))
    (mount / "two").rmdir()


def test_not_even_the_owner_of_the_root_releases_the_lockspace_of_another(make_daemon):
    mount = make_daemon("mode=777", f"uid={SOMEBODY}").mountpoint
    run_as(NOBODY, lambda: make_lockspace(mount, "web", 0o777))
    with raises_errno(errno.EPERM, errno.EACCES):
        run_as(SOMEBODY, lambda: os.rmdir(mount / "web"))
    assert (mount / "web").exists()


def test_only_its_owner_and_root_force_a_lockspace(make_daemon):
    mount = make_daemon("mode=1777").mountpoint
    run_as(NOBODY, lambda: make_lockspace(mount, "web", 0o777))
    for refused in [lambda: put(mount / "web" / ".force", b"1"),
                    lambda: os.setxattr(mount / "web", "user.force", b"1")]:
        with raises_errno(errno.EPERM, errno.EACCES):
            run_as(SOMEBODY, refused)
        with raises_errno(errno.EPERM, errno.EACCES):
            run_as(SOMEBODY, refused, gid=NOBODY, groups=[NOBODY])
    assert get(mount / "web" / ".force").strip() == b"0"
    run_as(NOBODY, lambda: put(mount / "web" / ".force", b"1"))
    assert os.getxattr(mount / "web", "user.force") == b"1"
    run_as(NOBODY, lambda: os.setxattr(mount / "web", "user.force", b"0"))
    assert get(mount / "web" / ".force").strip() == b"0"
    put(mount / "web" / ".force", b"1")
    assert get(mount / "web" / ".force").strip() == b"1"


def test_the_new_owner_of_a_lockspace_may_release_it(make_daemon):
    mount = make_daemon("mode=777").mountpoint
    run_as(NOBODY, lambda: os.mkdir(mount / "web"))
    os.chown(mount / "web", SOMEBODY, SOMEBODY)
    with raises_errno(errno.EPERM, errno.EACCES):
        run_as(NOBODY, lambda: os.rmdir(mount / "web"))
    run_as(SOMEBODY, lambda: os.rmdir(mount / "web"))


def test_only_its_owner_and_root_change_a_lockspace(make_daemon):
    mount = make_daemon("mode=1777").mountpoint
    run_as(NOBODY, lambda: make_lockspace(mount, "web", 0o777))
    with raises_errno(errno.EPERM):
        run_as(SOMEBODY, lambda: os.chmod(mount / "web", 0o700))
    with raises_errno(errno.EPERM):
        run_as(SOMEBODY, lambda: os.chown(mount / "web", SOMEBODY, -1))
    with raises_errno(errno.EPERM):             # giving away is root's
        run_as(NOBODY, lambda: os.chown(mount / "web", SOMEBODY, -1))
    run_as(NOBODY, lambda: os.chmod(mount / "web", 0o700))
    run_as(NOBODY, lambda: os.chown(mount / "web", -1, GROUP), groups=[GROUP])
    seen = (mount / "web").stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o700, NOBODY, GROUP)


def test_a_closed_lockspace_keeps_others_out(mount):
    web = make_lockspace(mount, "web", 0o750)
    os.chown(web, -1, GROUP)
    make_file(web, 0o666)
    for attempt in [lambda: os.listdir(web), lambda: os.open(web / "job", os.O_RDONLY), lambda: os.stat(web / "job"),
                    lambda: os.open(web / ".ex" / "job", os.O_RDWR), lambda: os.open(web / ".locks", os.O_RDONLY)]:
        with raises_errno(errno.EACCES):
            run_as(NOBODY, attempt)
    assert run_as(NOBODY, lambda: os.listdir(web), groups=[GROUP]) == ["job"]
    assert run_as(NOBODY, lambda: os.listdir(web), gid=GROUP) == ["job"]
    with raises_errno(errno.EACCES):            # may look, may use what is there, may not make files
        run_as(NOBODY, lambda: touch(web / "new"), groups=[GROUP])
    with raises_errno(errno.EACCES):
        run_as(NOBODY, lambda: os.unlink(web / "job"), groups=[GROUP])
    run_as(NOBODY, lambda: os.close(os.open(web / ".ex" / "job", os.O_RDWR)), groups=[GROUP])


# --- lock files --------------------------------------------------------------

def test_who_makes_a_lock_file_owns_it(lockspace):
    def make():
        with umask(0o027):
            os.close(os.open(lockspace / "job", os.O_RDWR | os.O_CREAT, 0o666))
            os.mknod(lockspace / "node", 0o660 | stat.S_IFREG)

    run_as(SOMEBODY, make, gid=GROUP)
    for name in ["job", "node"]:
        seen = (lockspace / name).stat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o640, SOMEBODY, GROUP)


def test_only_its_owner_and_root_change_a_lock_file(lockspace):
    job = make_file(lockspace, 0o666, SOMEBODY, SOMEBODY)
    for attempt in [lambda: os.chmod(job, 0o600), lambda: os.chown(job, NOBODY, -1), lambda: os.utime(job, (1, 1))]:
        with raises_errno(errno.EPERM):
            run_as(NOBODY, attempt)
    run_as(NOBODY, lambda: os.utime(job))       # "now" needs write permission only
    run_as(SOMEBODY, lambda: os.chmod(job, 0o600))
    run_as(SOMEBODY, lambda: os.utime(job, (1, 1)))
    assert (stat.S_IMODE(job.stat().st_mode), job.stat().st_mtime) == (0o600, 1)


def open_and_lock(path, flags, operation=None):
    with opened(path, flags) as fd:
        if operation is not None:
            fcntl.flock(fd, operation)


def surprises(uid, attempts, gid=None, groups=()):
    """Of attempts, (allowed, path, flags, flock operation or None), those that end neither well nor with EACCES as they
    should: (path, flags, operation, errno). One process makes them all."""
    def attempt_all():
        found = []
        for allowed, *attempt in attempts:
            number = errno_of(open_and_lock, *attempt)
            if number != (0 if allowed else errno.EACCES):
                found.append((*attempt, errno.errorcode.get(number, "no error")))
        return found

    return run_as(uid, attempt_all, gid=gid, groups=groups)


def test_read_permission_is_enough_for_nl_cr_and_pr(lockspace):
    make_file(lockspace, 0o444)
    attempts = [(mode in READ_IS_ENOUGH, lockspace / f".{mode}" / "job", os.O_RDONLY, None) for mode in MODES]
    # and writing needs write permission anyway
    attempts += [(False, lockspace / f".{mode}" / "job", os.O_RDWR, None) for mode in MODES]
    assert surprises(NOBODY, attempts) == []


def test_write_permission_alone_is_enough_for_every_mode(lockspace):
    make_file(lockspace, 0o222)
    assert surprises(NOBODY, [(True, lockspace / f".{mode}" / "job", os.O_WRONLY, None) for mode in MODES]) == []


def test_both_permissions_are_enough_for_every_mode(lockspace):
    make_file(lockspace, 0o666)
    assert surprises(NOBODY, [(True, lockspace / f".{mode}" / "job", flags, None) for mode in MODES for flags in FLAGS]) == []


def test_without_permission_nothing_opens(lockspace):
    make_file(lockspace, 0o000)
    paths = [lockspace / "job", *(lockspace / f".{mode}" / "job" for mode in MODES)]
    assert surprises(NOBODY, [(False, path, flags, None) for path in paths for flags in FLAGS]) == []
    for path in paths:
        os.close(os.open(path, os.O_RDWR))      # root may


def test_flock_with_read_permission_is_shared_only(lockspace):
    job = make_file(lockspace, 0o444)

    def lock(operation):
        with opened(job, os.O_RDONLY) as fd:
            fcntl.flock(fd, operation)

    run_as(NOBODY, lambda: lock(fcntl.LOCK_SH))
    for operation in [fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB]:
        with raises_errno(errno.EACCES):
            run_as(NOBODY, lambda: lock(operation))


def test_a_refused_change_to_ex_keeps_the_shared_lock(lockspace):
    job = make_file(lockspace, 0o444)
    with as_user(NOBODY):
        fd = os.open(job, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_SH)
        with raises_errno(errno.EACCES):
            fcntl.flock(fd, fcntl.LOCK_EX)
    with raises_errno(errno.EWOULDBLOCK):
        os.open(lockspace / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK)
    os.close(fd)


def test_flock_ex_on_a_descriptor_opened_for_reading_needs_write_permission_only(lockspace):
    """flock(1) opens its file read-only and takes EX."""
    job = make_file(lockspace, 0o666)
    assert run_as(NOBODY, ["flock", "-x", str(job), "true"]).returncode == 0
    with as_user(NOBODY), opened(job, os.O_RDONLY) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)


def test_flock_with_write_permission_alone_takes_every_mode(lockspace):
    job = make_file(lockspace, 0o222)
    with as_user(NOBODY), opened(job, os.O_WRONLY) as fd:
        for operation in [fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_EX]:
            fcntl.flock(fd, operation)


def test_fcntl_needs_the_matching_open_mode(lockspace):
    job = make_file(lockspace, 0o666)
    with opened(job, os.O_RDONLY) as fd, raises_errno(errno.EBADF):
        fcntl.lockf(fd, fcntl.LOCK_EX)
    with opened(job, os.O_WRONLY) as fd, raises_errno(errno.EBADF):
        fcntl.lockf(fd, fcntl.LOCK_SH)


# --- from one moment to the next -------------------------------------------------
# The kernel asks for what it has seen less than a second ago only if it is told to.

def owners_and_modes(paths):
    return {str(path): (seen.st_uid, seen.st_gid, oct(stat.S_IMODE(seen.st_mode))) for path in paths for seen in [path.stat()]}


def test_all_that_is_in_a_lockspace_has_its_new_owner_at_once(lockspace):
    paths = [lockspace, *(lockspace / name for name in [".force", ".locks"]), *(lockspace / f".{mode}" for mode in MODES),
             *(lockspace / f".{mode}" / "unlisted" for mode in MODES)]
    before = owners_and_modes(paths)
    os.chown(lockspace, SOMEBODY, GROUP)
    assert owners_and_modes(paths) == {path: (SOMEBODY, GROUP, mode) for path, (_, _, mode) in before.items()}


def test_a_lockspace_that_is_closed_is_closed_at_once(lockspace):
    """With its mode directories, and the names in them that are not listed."""
    def opens():
        return [mode for mode in MODES if errno_of(open_and_lock, lockspace / f".{mode}" / "unlisted", os.O_RDONLY) == 0]

    assert run_as(NOBODY, opens) == MODES
    lockspace.chmod(0o775)
    assert run_as(NOBODY, opens) == READ_IS_ENOUGH
    lockspace.chmod(0o777)
    assert run_as(NOBODY, opens) == MODES
    with opened(lockspace / ".ex", os.O_RDONLY) as directory:   # for who is in already, too
        lockspace.chmod(0o700)
        with raises_errno(errno.EACCES):
            Child(lambda peer: os.open("unlisted", os.O_RDWR, dir_fd=directory), uid=NOBODY, keep=[directory]).join()


def test_a_name_that_is_made_has_its_own_permissions_at_once(lockspace):
    paths = [lockspace / f".{mode}" / "job" for mode in MODES]
    assert {mode for _, _, mode in owners_and_modes(paths).values()} == {oct(0o666)}
    os.close(os.open(lockspace / "job", os.O_RDWR | os.O_CREAT, 0o600))
    assert {mode for _, _, mode in owners_and_modes(paths).values()} == {oct(0o600)}
    (lockspace / "job").unlink()
    assert {mode for _, _, mode in owners_and_modes(paths).values()} == {oct(0o666)}


GROUP_CASES = {                                 # uid, gid, supplementary groups, as which class of 0640 SOMEBODY:GROUP
    "owner": (SOMEBODY, SOMEBODY, [], "owner"),
    "primary group": (NOBODY, GROUP, [], "group"),
    "supplementary group": (NOBODY, NOBODY, [GROUP], "group"),
    "one of many groups": (NOBODY, NOBODY, [*range(30000, 30040), GROUP, *range(31000, 31020)], "group"),
    "another group": (NOBODY, NOBODY, [OTHER_GROUP], "other"),
    "nobody": (NOBODY, NOBODY, [], "other"),
    "owner in the group": (SOMEBODY, GROUP, [GROUP], "owner"),
}


CLASS_SHIFT = {"owner": 6, "group": 3, "other": 0}


@pytest.mark.parametrize("bits", [0o640, 0o460, 0o604, 0o066, 0o620], ids=oct)
def test_the_class_of_the_caller_decides(lockspace, bits):
    """What each is allowed on a file, asked through every mode directory and by flock."""
    job = make_file(lockspace, bits, SOMEBODY, GROUP)

    def attempts(readable, writable):
        for mode in MODES:
            path = lockspace / f".{mode}" / "job"
            yield readable if mode in READ_IS_ENOUGH else readable and writable, path, os.O_RDONLY, None
            yield writable, path, os.O_WRONLY, None
            yield readable and writable, path, os.O_RDWR, None
        yield readable, job, os.O_RDONLY, fcntl.LOCK_SH
        yield readable and writable, job, os.O_RDONLY, fcntl.LOCK_EX

    wrong = {}
    for case, (uid, gid, groups, which) in GROUP_CASES.items():
        granted = bits >> CLASS_SHIFT[which]
        wrong[case] = surprises(uid, attempts(bool(granted & 4), bool(granted & 2)), gid, groups)
    assert not any(wrong.values()), wrong


@pytest.mark.parametrize("bits", [0o755, 0o775, 0o751], ids=oct)
def test_an_unlisted_name_has_the_permissions_of_the_lockspace(lockspace, bits):
    """Its owner, its group, and its mode without x."""
    lockspace.chmod(bits)
    os.chown(lockspace, SOMEBODY, GROUP)

    def attempts(granted):
        for mode in MODES:
            for flags, needed in [(os.O_RDONLY, 4 if mode in READ_IS_ENOUGH else 2), (os.O_RDWR, 6), (os.O_WRONLY, 2)]:
                yield granted & needed == needed, lockspace / f".{mode}" / "unlisted", flags, None

    wrong = {}
    for case, (uid, gid, groups, which) in GROUP_CASES.items():
        wrong[case] = surprises(uid, attempts(bits >> CLASS_SHIFT[which] & 7), gid, groups)
    assert not any(wrong.values()), wrong


def test_an_unlisted_name_shows_its_owner(mount):
    lockspace = make_lockspace(mount, "web", 0o770)
    os.chown(lockspace, SOMEBODY, GROUP)
    seen = (lockspace / ".nl" / "unlisted").stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o660, SOMEBODY, GROUP)


def test_a_listed_name_has_its_own_permissions_in_the_mode_directories(lockspace):
    make_file(lockspace, 0o600, SOMEBODY, GROUP)
    with raises_errno(errno.EACCES):
        run_as(NOBODY, lambda: os.open(lockspace / ".nl" / "job", os.O_RDONLY))
    run_as(SOMEBODY, lambda: os.close(os.open(lockspace / ".ex" / "job", os.O_RDWR)))
    (lockspace / "job").chmod(0o666)
    run_as(NOBODY, lambda: os.close(os.open(lockspace / ".ex" / "job", os.O_RDWR)))


def test_the_right_is_decided_at_open_and_stays_with_the_descriptor(lockspace):
    job = make_file(lockspace, 0o666)
    with as_user(NOBODY):
        strong = os.open(job, os.O_RDONLY)
    job.chmod(0o444)
    with as_user(NOBODY):
        weak = os.open(job, os.O_RDONLY)
    job.chmod(0o666)
    with as_user(NOBODY):
        with raises_errno(errno.EACCES):
            fcntl.flock(weak, fcntl.LOCK_EX)
    job.chmod(0o444)
    with as_user(NOBODY):
        fcntl.flock(strong, fcntl.LOCK_EX)
    os.close(strong)
    os.close(weak)


def test_the_right_holds_wherever_the_descriptor_is_passed(lockspace):
    job = make_file(lockspace, 0o644)

    def lock(fd):
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.flock(fd, fcntl.LOCK_UN)

    with opened(job, os.O_RDONLY) as fd:        # root's, inherited by a user who may only read
        Child(lambda peer: lock(fd), uid=NOBODY, keep=[fd]).join()

    ours, theirs = socket.socketpair()          # a user's, handed to root over a socket
    child = Child(lambda peer: socket.send_fds(theirs, [b"x"], [os.open(job, os.O_RDONLY)]), uid=NOBODY,
                  keep=[theirs.fileno()])
    child.join()
    fd, = socket.recv_fds(ours, 10, 1)[1]
    with raises_errno(errno.EACCES):
        lock(fd)
    fcntl.flock(fd, fcntl.LOCK_SH)
    os.close(fd)
    ours.close()
    theirs.close()


def test_a_value_is_read_and_written_by_the_permissions_of_the_file(lockspace):
    put(lockspace / ".ex" / "rev", b"42")
    os.chmod(lockspace / "rev", 0o644)
    assert run_as(NOBODY, lambda: get(lockspace / "rev")) == b"42"
    assert run_as(NOBODY, lambda: get(lockspace / ".pr" / "rev")) == b"42"
    with raises_errno(errno.EACCES):
        run_as(NOBODY, lambda: put(lockspace / ".ex" / "rev", b"43"))
    os.chmod(lockspace / "rev", 0o600)
    for attempt in [lambda: get(lockspace / "rev"), lambda: get(lockspace / ".pr" / "rev"),
                    lambda: os.getxattr(lockspace / "rev", "user.value")]:
        with raises_errno(errno.EACCES):
            run_as(NOBODY, attempt)


def test_a_value_written_by_a_user_makes_its_file(lockspace):
    run_as(SOMEBODY, lambda: put(lockspace / ".ex" / "rev", b"42"))
    assert os.listdir(lockspace) == ["rev"]
    assert get(lockspace / "rev") == b"42"


def test_the_tables_are_for_everybody_to_read(mount, lockspace):
    for path in [lockspace / ".locks", mount / ".status"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert run_as(NOBODY, lambda: get(path))
        with raises_errno(errno.EACCES):
            run_as(NOBODY, lambda: os.open(path, os.O_WRONLY))
