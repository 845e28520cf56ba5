"""One user cannot starve the others: what each may have at a time. Root is not counted."""

import contextlib
import errno
import fcntl
import itertools
import os
import queue
import random
import re
import resource
import stat
import threading

import pytest

from inject import Life, sweep
from locking import WAYS, fcntl_waiter, flock_waiter, open_waiter, take_locks
from lockspacefs_test import (NOBODY, SOMEBODY, TIMEOUT, Child, as_user, errno_of, get, locks, lockspacefs, make_lockspace, opened, put,
                              raises_errno, run_as, status, touch, wait_for_waiters, wait_until)

LIMIT = 10


@pytest.fixture
def limited(make_daemon):
    """A mount with small limits, and a lockspace for everybody."""
    mount = make_daemon(f"max_locks={LIMIT}", f"max_files={2 * LIMIT}", f"max_waiters={LIMIT // 2}").mountpoint
    return make_lockspace(mount, "web", 0o777)


def mknod(path):
    os.mknod(path, 0o666 | stat.S_IFREG)


# --- files ---------------------------------------------------------------------

def test_beyond_max_files_a_user_gets_enospc(limited):
    with as_user(NOBODY):
        for i in range(2 * LIMIT):
            mknod(limited / f"job-{i}")
        for _ in range(3):
            with raises_errno(errno.ENOSPC):
                mknod(limited / "one-too-many")
        with raises_errno(errno.ENOSPC):
            os.open(limited / "one-too-many", os.O_RDWR | os.O_CREAT)
        assert len(os.listdir(limited)) == 2 * LIMIT


def test_max_files_counts_each_user_alone_and_not_root(limited):
    for i in range(2 * LIMIT):
        run_as(NOBODY, lambda: mknod(limited / f"nobody-{i}"))
    with raises_errno(errno.ENOSPC):
        run_as(NOBODY, lambda: mknod(limited / "nobody"))
    for i in range(2 * LIMIT):
        run_as(SOMEBODY, lambda: mknod(limited / f"somebody-{i}"))
    for i in range(5 * LIMIT):
        mknod(limited / f"root-{i}")
    assert len(os.listdir(limited)) == 9 * LIMIT


def test_a_file_counts_for_who_writes_its_value_whoever_looked_its_name_up_before(limited):
    def write(name):
        with opened(limited / ".ex" / name) as fd:
            os.write(fd, b"1")

    for i in range(2 * LIMIT):
        run_as(SOMEBODY, lambda: os.stat(limited / ".ex" / f"job-{i}"))
        run_as(NOBODY, lambda: write(f"job-{i}"))
    run_as(SOMEBODY, lambda: os.stat(limited / ".ex" / "one-too-many"))
    with raises_errno(errno.ENOSPC):
        run_as(NOBODY, lambda: write("one-too-many"))
    assert len(os.listdir(limited)) == 2 * LIMIT
    for i in range(2 * LIMIT - 1):              # to whom nothing counts but that one
        run_as(SOMEBODY, lambda: mknod(limited / f"other-{i}"))


def test_a_file_counts_for_who_makes_it_whoever_locked_its_name_before(limited):
    with as_user(SOMEBODY):
        fd = os.open(limited / ".cr" / "shared", os.O_RDONLY)
    with as_user(NOBODY):
        for i in range(2 * LIMIT):
            mknod(limited / f"job-{i}")
        with raises_errno(errno.ENOSPC):
            mknod(limited / "shared")
        os.unlink(limited / "job-3")
        wait_until(lambda: errno_of(mknod, limited / "shared") == 0)    # once the kernel has let go of the old one
    with as_user(SOMEBODY):                     # to whom it does not count any more
        for i in range(2 * LIMIT):
            mknod(limited / f"other-{i}")
    os.close(fd)


def test_a_removed_file_makes_room(limited):
    with as_user(NOBODY):
        for i in range(2 * LIMIT):
            mknod(limited / f"job-{i}")
        os.unlink(limited / "job-3")
        wait_until(lambda: errno_of(mknod, limited / "next") == 0)      # once the kernel has let go of the old one
        with raises_errno(errno.ENOSPC):
            mknod(limited / "one-too-many")


def test_files_at_the_limit_still_work(limited):
    with as_user(NOBODY):
        for i in range(2 * LIMIT):
            mknod(limited / f"job-{i}")
        for i in range(2 * LIMIT):
            with opened(limited / f"job-{i}") as fd:
                fcntl.flock(fd, fcntl.LOCK_EX)
                os.write(fd, b"x")


def test_names_in_use_in_a_mode_directory_count_too(limited):
    """Until they are closed."""
    with as_user(NOBODY):
        files = [os.open(limited / ".nl" / f"job-{i}", os.O_RDONLY) for i in range(LIMIT)]
        for i in range(LIMIT):
            mknod(limited / f"job-{LIMIT + i}")
        for use in [os.stat, lambda path: os.open(path, os.O_RDONLY)]:
            with raises_errno(errno.ENOSPC):
                use(limited / ".nl" / "one-too-many")
        os.close(files.pop())
        wait_until(lambda: errno_of(os.stat, limited / ".nl" / "one-more") == 0)
        with raises_errno(errno.ENOSPC):
            [mknod(limited / name) for name in ("a", "b")]
    os.stat(limited / ".nl" / "roots")
    run_as(SOMEBODY, lambda: os.stat(limited / ".nl" / "somebodys"))
    for fd in files:
        os.close(fd)


@pytest.mark.parametrize("place", [".nl", ".ex"])
def test_names_that_are_not_used_any_more_make_room(limited, place):
    """The kernel has all of them still. The first ones are there again when they are wanted, and what they were locked for."""
    def use(name):
        os.stat(limited / place / name)
        with opened(limited / place / name, os.O_RDWR) as fd:
            if place == ".ex":
                os.write(fd, name.encode())
                os.unlink(limited / name)

    with as_user(NOBODY):
        for i in range(5 * LIMIT):
            use(f"job-{i}")
            use(f"job-{i - 3 * LIMIT}")                 # its inode is gone by now
        with opened(limited / place / "job-0") as fd:
            for i in range(3 * LIMIT):
                use(f"more-{i}")
            assert [lock["resource"] for lock in locks(limited)] == ["job-0"]
            os.fstat(fd)
        for i in range(2 * LIMIT):
            mknod(limited / f"file-{i}")
        with raises_errno(errno.ENOSPC):
            os.stat(limited / place / "one-too-many")
        for i in range(2 * LIMIT):
            os.unlink(limited / f"file-{i}")
        use("job-0")


def test_names_make_room_for_lockspaces(limited):
    limited.parent.chmod(0o777)
    with as_user(NOBODY):
        for i in range(2 * LIMIT):
            os.stat(limited / ".nl" / f"job-{i}")
        (limited.parent / "own").mkdir()
        (limited.parent / "own").rmdir()


def test_looking_for_files_that_are_not_there_costs_nothing(limited):
    def look_up():
        for i in range(20 * LIMIT):
            with raises_errno(errno.ENOENT):
                os.stat(limited / f"random-{i}")
        mknod(limited / "job")

    run_as(NOBODY, look_up)


def test_lockspaces_count_for_who_makes_them(make_daemon, engine):
    limit = {"local": 20, "dlm": 2}[engine]     # where each takes its time
    mount = make_daemon("mode=1777", f"max_files={limit}").mountpoint
    with as_user(NOBODY):
        for i in range(limit):
            make_lockspace(mount, f"ls-{i}")
        for _ in range(3):
            with raises_errno(errno.ENOSPC):
                os.mkdir(mount / "one-too-many")
        with raises_errno(errno.EEXIST):
            os.mkdir(mount / "ls-0")
        with raises_errno(errno.ENOSPC):
            mknod(mount / "ls-0" / "job")
        (mount / "ls-0").rmdir()
        make_lockspace(mount, "next")
        with raises_errno(errno.ENOSPC):
            os.mkdir(mount / "one-too-many")
    with opened(mount / "next" / ".ex" / "job"):        # root's
        put(mount / "next" / ".force", b"1")
        (mount / "next").rmdir()
        run_as(NOBODY, lambda: make_lockspace(mount, "last"))
    os.chown(mount / "last", SOMEBODY, SOMEBODY)
    with raises_errno(errno.ENOSPC):
        run_as(NOBODY, lambda: os.mkdir(mount / "one-too-many"))
    for uid in [SOMEBODY, 0]:
        run_as(uid, lambda: make_lockspace(mount, f"of-{uid}"))


def test_a_lockspace_that_was_not_made_does_not_count(make_daemon, injector):
    mount = make_daemon("mode=1777", "max_files=1", "wait=60", environment=injector.environment).mountpoint

    def make():
        life = Life(mount)
        life.step("mkdir", run_as, NOBODY, lambda: os.mkdir(life.lockspace))
        return life

    def take_back(life):
        if life.errors["mkdir"] == 0:
            life.lockspace.rmdir()
        else:
            assert injector.injected
    sweep(make, take_back, lambda skip: injector.fail("malloc", errno.ENOMEM, skip=skip, path="lockspacefs"), injector)


FNV_START, FNV_PRIME = 2166136261, 16777619     # FNV-1a, a hash of which anybody can tell what collides


def hash_on(state, piece):
    for byte in piece:
        state = (state ^ byte) * FNV_PRIME & 0xffffffff
    return state


def colliding_names(doublings):
    """2 ** doublings names of one hash: at each place one of two pieces, after which it is the same."""
    dice = random.Random(1)
    pieces, state = [], FNV_START
    for _ in range(doublings):
        seen = {}
        while True:
            piece = (dice.getrandbits(32) | 0x80808080).to_bytes(4, "big")      # bytes that are written as they are
            hashed = hash_on(state, piece)
            if seen.setdefault(hashed, piece) != piece:
                break
        pieces.append((seen[hashed], piece))
        state = hashed
    names = [b"".join(choice) for choice in itertools.product(*pieces)]
    assert len(set(names)) == 2 ** doublings and {hash_on(FNV_START, name) for name in names} == {state}
    return names


def test_names_chosen_to_collide_are_found_as_fast_as_others(make_daemon, engine):
    """Else a user stops the daemon for seconds, within his limits."""
    daemon = make_daemon()
    dice = random.Random(1)
    collide = colliding_names({"local": 13, "dlm": 9}[engine])
    others = [bytes(dice.choices(range(128, 256), k=len(collide[0]))) for _ in collide]
    took = {}
    for kind, names in [("others", others), ("collide", collide)]:
        directory = os.fsencode(make_lockspace(daemon.mountpoint, kind) / ".nl") + b"/"
        before = daemon.cpu_time
        for name in names:
            os.stat(directory + name)
        took[kind] = daemon.cpu_time - before
    assert took["collide"] < 5 * max(took["others"], 0.05), took


# --- locks ---------------------------------------------------------------------

@pytest.mark.parametrize("kind", WAYS)
def test_beyond_max_locks_a_user_gets_enolck(limited, kind):
    with contextlib.ExitStack() as held, as_user(NOBODY):
        take_locks(limited, kind, LIMIT, held)
        for again in WAYS:
            with raises_errno(errno.ENOLCK), contextlib.ExitStack() as more:
                take_locks(limited, again, LIMIT + 1, more)


@pytest.mark.parametrize("kind", WAYS)
def test_max_locks_counts_each_user_alone_and_not_root(limited, kind):
    def somebody():
        with contextlib.ExitStack() as held:
            take_locks(limited, kind, LIMIT, held)

    with contextlib.ExitStack() as held:
        with as_user(NOBODY):
            take_locks(limited, kind, LIMIT, held)
        take_locks(limited, kind, 5 * LIMIT, held)
        run_as(SOMEBODY, somebody)


def test_a_dropped_lock_makes_room(limited):
    touch(limited / "job")
    os.chmod(limited / "job", 0o666)
    with contextlib.ExitStack() as held, as_user(NOBODY):
        take_locks(limited, "flock", LIMIT - 1, held)
        for _ in range(3 * LIMIT):
            with opened(limited / ".ex" / "job"):
                with raises_errno(errno.ENOLCK):
                    os.open(limited / ".nl" / "job", os.O_RDWR)
        with opened(limited / "job") as fd:
            for _ in range(3 * LIMIT):
                for operation in [fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]:
                    fcntl.flock(fd, operation)
                for operation in [fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]:
                    fcntl.lockf(fd, operation)


def test_a_refused_or_interrupted_lock_costs_nothing(limited):
    touch(limited / "job")
    os.chmod(limited / "job", 0o666)

    def wait(peer):
        with opened(limited / "job") as fd:
            peer.say("asks")
            fcntl.flock(fd, fcntl.LOCK_EX)

    def refused():
        for _ in range(3 * LIMIT):
            with raises_errno(errno.EWOULDBLOCK):
                os.open(limited / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK)

    with opened(limited / ".ex" / "job"):
        run_as(NOBODY, refused)
        for _ in range(2 * LIMIT):
            child = Child(wait, uid=NOBODY)
            child.wait_for("asks")
            wait_for_waiters(limited)
            child.kill()
            wait_until(lambda: status(limited.parent)["waiting"] == 0)
    with contextlib.ExitStack() as held, as_user(NOBODY):
        take_locks(limited, "flock", LIMIT, held)


# --- waiters -------------------------------------------------------------------

@pytest.mark.parametrize("kind", [flock_waiter, fcntl_waiter, open_waiter])
def test_beyond_max_waiters_a_user_gets_enolck(limited, kind):
    touch(limited / "job")
    os.chmod(limited / "job", 0o666)
    most = LIMIT // 2
    with opened(limited / ".ex" / "job"):
        children = [Child(kind, limited / "job", uid=NOBODY) for _ in range(most)]
        wait_for_waiters(limited, most)
        for again in [flock_waiter, fcntl_waiter, open_waiter]:
            with raises_errno(errno.ENOLCK):
                Child(again, limited / "job", uid=NOBODY).join()
        with raises_errno(errno.EWOULDBLOCK):   # who does not wait is not refused
            run_as(NOBODY, lambda: os.open(limited / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK))
        others = [Child(kind, limited / "job", uid=SOMEBODY)] + [Child(kind, limited / "job") for _ in range(2 * most)]
        wait_for_waiters(limited, 3 * most + 1)
        children.pop().kill()
        wait_until(lambda: status(limited.parent)["waiting"] == 3 * most)
        children.append(Child(kind, limited / "job", uid=NOBODY))
        wait_for_waiters(limited, 3 * most + 1)
    for child in children + others:
        child.join()


def crowd(peer, path, size):
    """Threads that ask for EX through one open file, of which only the first comes to stand at the resource."""
    answers = queue.SimpleQueue()
    with opened(path) as fd:
        for _ in range(size):
            threading.Thread(target=lambda: answers.put(errno_of(fcntl.flock, fd, fcntl.LOCK_EX)), daemon=True).start()
        refused = [answers.get(timeout=TIMEOUT) for _ in range(size - LIMIT // 2)]
        peer.say("the others wait")
        return refused, [answers.get(timeout=TIMEOUT) for _ in range(LIMIT // 2)]


def test_who_waits_for_his_own_file_counts_too(limited):
    touch(limited / "job")
    os.chmod(limited / "job", 0o666)
    with opened(limited / ".ex" / "job"):
        child = Child(crowd, limited / "job", 2 * LIMIT, uid=NOBODY)
        child.wait_for("the others wait")
    refused, granted = child.join()
    assert set(refused) == {errno.ENOLCK} and set(granted) == {0}


def test_a_wait_that_is_over_the_limit_is_no_refusal(limited):
    """In .metrics refusals are tries that found the lock taken."""
    touch(limited / "job")
    os.chmod(limited / "job", 0o666)

    def refusals():
        return re.findall(r"^lockspacefs_refusals_total\S* (\d+)$", get(limited.parent / ".metrics").decode(), re.M)

    with opened(limited / ".ex" / "job"):
        children = [Child(flock_waiter, limited / "job", uid=NOBODY) for _ in range(LIMIT // 2)]
        wait_for_waiters(limited, LIMIT // 2)
        for again in [flock_waiter, fcntl_waiter, open_waiter]:
            with raises_errno(errno.ENOLCK):
                Child(again, limited / "job", uid=NOBODY).join()
        assert refusals() == ["0"]
        with raises_errno(errno.EWOULDBLOCK):
            run_as(NOBODY, lambda: os.open(limited / ".ex" / "job", os.O_RDWR | os.O_NONBLOCK))
        assert refusals() == ["1"]
    for child in children:
        child.join()


# --- what is read --------------------------------------------------------------

TEXT_MAX = 64 << 20                             # bytes: lockspacefs(8), max_waiters


@contextlib.contextmanager
def many_descriptors():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def open_all(path, stack):
    """As often as it goes; how often that was."""
    with pytest.raises(OSError) as caught:
        for count in itertools.count():
            stack.callback(os.close, os.open(path, os.O_RDONLY))
    assert caught.value.errno == errno.EMFILE
    return count


def test_open_texts_and_listings_of_a_user_are_limited_together(limited):
    with many_descriptors(), contextlib.ExitStack() as held:
        take_locks(limited, "flock", 800, held, prefix="%01" * 60)
        size = len(get(limited / ".locks"))

        def use_up(peer):
            with contextlib.ExitStack() as texts:
                counts = [open_all(limited / ".locks", texts), open_all(limited.parent / ".status", texts)]
                with raises_errno(errno.EMFILE):
                    os.listdir(limited)
                peer.say("used up")
                peer.wait_for("go on")
            for _ in range(TEXT_MAX // size + 2):       # one after the other there is no limit
                get(limited / ".locks")
            assert len(os.listdir(limited)) == 800
            return counts

        child = Child(use_up, uid=NOBODY)
        child.wait_for("used up")
        for uid in [SOMEBODY, 0]:
            assert run_as(uid, lambda: (get(limited / ".locks").count(b"\theld\t"), len(os.listdir(limited)))) == (800, 800)
        child.say("go on")
        tables, others = child.join()
        assert tables * size <= TEXT_MAX < (tables + 1) * len(get(limited / ".locks"))        # seconds grow longer
        assert others > 0


# --- the options ---------------------------------------------------------------

def test_zero_means_no_limit(make_daemon):
    mount = make_daemon("max_files=0", "max_locks=0", "max_waiters=0").mountpoint
    web = make_lockspace(mount, "web", 0o777)
    with contextlib.ExitStack() as held, as_user(NOBODY):
        take_locks(web, "flock", 200, held)


def test_ordinary_use_stays_far_below_the_default_limits(lockspace):
    with contextlib.ExitStack() as held, as_user(NOBODY):
        take_locks(lockspace, "flock", 500, held)


@pytest.mark.parametrize("name", ["max_locks", "max_files", "max_waiters"])
def test_the_help_tells_each_default_limit(name):
    line, = [line for line in lockspacefs("--help").stdout.splitlines() if name in line]
    assert int(re.search(r"\d+", line.split(name)[1])[0]) > 0
