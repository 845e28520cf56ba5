"""One user cannot starve the others while a lockspace is stopped, as it is when a node of the cluster has failed."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import threading

from locking import dlm_tool, raw_open, stopped, take_locks
from lockspacefs_test import (NOBODY, SOMEBODY, Child, as_user, errno_of, get, locks, make_lockspace, opened, put, raises_errno,
                              run_as, status, touch, wait_until)

LIMIT = 5


def crowd(peer, path):
    """Calls of one user that wait for the lockspace: in fsync of what they wrote, or in a read."""
    answers = []
    done = threading.Semaphore(0)

    def call(function, *args):
        answers.append(errno_of(function, *args))
        done.release()

    with contextlib.ExitStack() as stack:
        fds = [stack.enter_context(opened(path.parent / ".ex" / f"own-{i}")) for i in range(LIMIT)]
        for fd in fds:
            os.write(fd, b"x")
        peer.say("ready")
        peer.wait_for("stopped")
        for function, *args in [(get, path)] * (2 * LIMIT) + [(os.fsync, fd) for fd in fds]:
            threading.Thread(target=call, args=(function, *args), daemon=True).start()
        for _ in range(2 * LIMIT):
            done.acquire()                      # over the limit: at once
        refused = list(answers)
        peer.say("the others wait")
        for _ in range(LIMIT):
            done.acquire()
        return refused, answers[len(refused):]


def test_value_reads_and_fsyncs_count_as_waiters_in_a_stopped_lockspace(make_daemon):
    mount = make_daemon(f"max_waiters={LIMIT}").mountpoint
    web = make_lockspace(mount, "web", 0o777)
    put(web / ".ex" / "rev", b"42")
    os.chmod(web / "rev", 0o666)
    child = Child(crowd, web / "rev", uid=NOBODY)
    child.wait_for("ready")
    with stopped("web"):
        child.say("stopped")
        child.wait_for("the others wait")
        others = Child(lambda peer: get(web / "rev"), uid=SOMEBODY)     # has a limit of his own
        assert not others.has_said()
        assert status(mount)                    # and the daemon answers
    assert others.join() == b"42"
    refused, granted = child.join()
    assert set(refused) == {errno.ENOLCK} and set(granted) == {0}
    assert run_as(NOBODY, lambda: get(web / "own-0")) == b"x"   # what an fsync refused came with the close
    wait_until(lambda: status(mount)["held"] == 0)


def test_who_waited_when_a_lockspace_went_may_have_as_many_as_before(make_daemon):
    many = 60

    def wait(peer, path):
        answers = []
        with contextlib.ExitStack() as files:
            fds = [files.enter_context(opened(path)) for _ in range(many)]
            threads = [threading.Thread(target=lambda fd=fd: answers.append(errno_of(fcntl.flock, fd, fcntl.LOCK_EX))) for fd in fds]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return answers

    def have_all():
        with contextlib.ExitStack() as held:
            take_locks(web, "flock", many, held)

    mount = make_daemon(f"max_locks={many}").mountpoint
    for _ in range(3):
        web = make_lockspace(mount, "web", 0o777)
        touch(web / "job")
        os.chmod(web / "job", 0o666)
        fd = os.open(web / ".ex" / "job", os.O_RDWR)
        child = Child(wait, web / "job", uid=NOBODY)
        wait_until(lambda: status(mount)["waiting"] == many)
        dlm_tool("leave", "web")
        assert child.join() == [errno.ESTALE] * many
        os.close(fd)
        wait_until(lambda: os.listdir(mount) == [])
    web = make_lockspace(mount, "web", 0o777)
    run_as(NOBODY, have_all)


def test_looking_at_the_locks_counts_until_it_is_done(make_daemon, helpers):
    """Who is interrupted and looks again and again cannot fill the line of those who look."""
    def look(peer):
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        seen = []
        while seen.count(errno.ENOLCK) < 10 and len(seen) < 1000:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            fd = raw_open(web / ".locks", os.O_RDONLY)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if fd >= 0:
                os.close(fd)
            seen.append(max(0, -fd))
        return seen

    mount = make_daemon(f"max_waiters={LIMIT}").mountpoint
    web = make_lockspace(mount, "web", 0o777)
    others = make_daemon().mountpoint
    wait_until(lambda: "web" in os.listdir(others))
    with subprocess.Popen([helpers / "hold", "open", others / "web", "r", "3000", "numbered"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert run_as(NOBODY, lambda: len(locks(web))) == 3000
        seen = Child(look, uid=NOBODY).join()
        assert seen.count(errno.ENOLCK) == 10 and errno.EINTR in seen
        wait_until(lambda: run_as(NOBODY, lambda: errno_of(locks, web)) == 0)
        holder.stdin.close()


def test_a_lockspace_counts_until_it_is_gone_and_those_of_others_do_not(make_daemon):
    mount = make_daemon("mode=1777", "max_files=2").mountpoint
    with as_user(NOBODY):
        for name in ["web", "mail"]:
            make_lockspace(mount, name)
        with raises_errno(errno.ENOSPC):
            os.mkdir(mount / "one-too-many")
    dlm_tool("leave", "web")
    wait_until(lambda: os.listdir(mount) == ["mail"])
    dlm_tool("join", "others")
    wait_until(lambda: sorted(os.listdir(mount)) == ["mail", "others"])
    with as_user(NOBODY):
        make_lockspace(mount, "web")
        with raises_errno(errno.ENOSPC):
            os.mkdir(mount / "one-too-many")
    dlm_tool("leave", "others")
