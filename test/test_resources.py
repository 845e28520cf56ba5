"""What very many waiters, files, locks and rounds cost the daemon.

The numbers are those the design promises on one machine. In a guest of the
cluster (--engine dlm) everything costs twenty times as much and memory is
short, so there are fewer of everything; what is asked of each stays the same.
A daemon built with a sanitizer has memory of its own: it runs through all of
this, but its memory is not measured.
"""

import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from locking import WAYS, held, start_waiter, taken
from lockspacefs_test import get, locks, status, touch, wait_for_poll, wait_until

PATIENCE = 200                                  # seconds for the largest step
KIB = 1024

WAITERS = {"local": 10000, "dlm": 1000}
FILES = {"local": 100000, "dlm": 5000}
LOCKS = {"local": 100000, "dlm": 2000}
NAMES = 20000                                   # more than a user may have without using them: lockspacefs(8), max_files
CYCLES = {"local": 1000000, "dlm": 10000}


def memory(daemon):
    """Bytes of its own, exactly: the other counters of Linux are rough. Not of the program's and the libraries' files, which
    the kernel takes out of memory and brings back, 64 KiB at a time, as it likes."""
    for line in Path(f"/proc/{daemon.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no Anonymous in smaps_rollup")


def threads(daemon):
    return len(os.listdir(f"/proc/{daemon.pid}/task"))


def is_sanitized(daemon):
    """Its memory is mostly the sanitizer's."""
    return "libasan" in Path(f"/proc/{daemon.pid}/maps").read_text(encoding="utf-8")


class Helper:
    """A helper program that is told lines and answers with lines."""

    def __init__(self, *command):
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def tell(self, what):
        self.process.stdin.write(f"{what}\n".encode())
        self.process.stdin.flush()

    def answer(self):
        assert wait_for_poll(self.process.stdout, select.POLLIN, PATIENCE), f"no word from {self.process.args}"
        return os.read(self.process.stdout.fileno(), 1000).decode().rstrip("\n")

    def finish(self):
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0


@pytest.fixture
def one_cpu(daemon):
    """We and the daemon on one processor: what a round takes is mostly wake-ups between two."""
    ours = os.sched_getaffinity(0)
    cpu = {max(ours)}
    os.sched_setaffinity(0, cpu)
    os.sched_setaffinity(daemon.pid, cpu)
    yield
    os.sched_setaffinity(0, ours)


# --- waiters ---------------------------------------------------------------

def test_ten_thousand_waiters_cost_no_thread_and_little_memory(daemon, mount, lockspace, helpers, engine):
    count = WAITERS[engine]
    touch(lockspace / "r")
    with taken("flock", lockspace, "r"):
        start_waiter("flock", lockspace, "r").kill()        # whatever the first one allocates for good
        threads_before, memory_before = threads(daemon), memory(daemon)
        with Helper(helpers / "waiters", lockspace / "r", count) as crowd:
            assert crowd.answer() == "opened"
            memory_opened = memory(daemon)
            crowd.tell("go")
            wait_until(lambda: status(mount)["waiting"] == count, PATIENCE)
            memory_waiting = memory(daemon)
            assert threads(daemon) == threads_before
            if not is_sanitized(daemon):
                assert memory_waiting - memory_opened < count * KIB
                assert memory_waiting - memory_before < count * KIB, "… their open files included"
            assert len(locks(lockspace)) == 1 + count
            os.close(os.open(lockspace / "other", os.O_RDWR | os.O_CREAT))      # nobody else is slowed down
            crowd.process.kill()
            crowd.process.wait()
        wait_until(lambda: status(mount)["waiting"] == 0, PATIENCE)
        assert held(lockspace, "r") == [("ex", "flock")]


def test_ten_thousand_waiters_all_get_it_in_the_end(mount, lockspace, helpers, engine):
    count = WAITERS[engine]
    touch(lockspace / "r")
    with Helper(helpers / "waiters", lockspace / "r", count) as crowd:
        with taken("flock", lockspace, "r"):
            assert crowd.answer() == "opened"
            crowd.tell("go")
            wait_until(lambda: status(mount)["waiting"] == count, PATIENCE)
        assert crowd.answer() == f"granted {count}"
        crowd.finish()
    wait_until(lambda: not locks(lockspace))


# --- files and locks -------------------------------------------------------

def test_a_hundred_thousand_lock_files(lockspace, engine):
    count = FILES[engine]
    directory = os.open(lockspace, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i in range(count):
            os.mknod(f"file{i}", 0o644, dir_fd=directory)
        assert set(os.listdir(lockspace)) == {f"file{i}" for i in range(count)}
        for i in (0, count // 2, count - 1):
            with taken("flock", lockspace, f"file{i}"):
                assert held(lockspace, f"file{i}") == [("ex", "flock")]
        for i in range(0, count, 2):
            os.unlink(f"file{i}", dir_fd=directory)
        assert set(os.listdir(lockspace)) == {f"file{i}" for i in range(1, count, 2)}
    finally:
        os.close(directory)
    os.rmdir(lockspace)
    assert not lockspace.exists()


def test_names_that_nobody_uses_any_more_cost_no_memory(daemon, lockspace):
    """The kernel keeps each of them, and for root there is no limit."""
    def use(numbers):
        for i in numbers:
            os.close(os.open(f"{i}", os.O_RDONLY, dir_fd=directory))

    directory = os.open(lockspace / ".nl", os.O_RDONLY | os.O_DIRECTORY)
    try:
        use(range(NAMES))
        before = memory(daemon)
        use(range(NAMES, 3 * NAMES))
        assert is_sanitized(daemon) or memory(daemon) - before < 2 * NAMES * 20
    finally:
        os.close(directory)


def test_a_hundred_thousand_locks_on_files_of_their_own(lockspace, helpers, engine):
    count = LOCKS[engine] // 4
    holders = [Helper(helpers / "hold", way, lockspace, f"{way}-", count, "numbered") for way in WAYS]
    for holder in holders:
        assert holder.answer() == "held"
    assert get(lockspace / ".locks").count(b"\theld\t") == 4 * count
    for holder in holders:
        holder.finish()
        holder.__exit__()
    wait_until(lambda: not locks(lockspace), PATIENCE)
    os.rmdir(lockspace)


def test_a_hundred_thousand_locks_on_one_resource_are_as_fast_as_ten(lockspace, helpers, engine, one_cpu):
    """Granting is no scan of the holders: with it, 100,000 would be a thousand times slower."""
    count, rounds = LOCKS[engine], 2000
    with Helper(helpers / "hold", "flock-shared", lockspace, "crowded", count) as crowd, \
         Helper(helpers / "hold", "flock-shared", lockspace, "quiet", 10) as few, \
         Helper(helpers / "cycles", "flock-shared", lockspace, "crowded") as crowded, \
         Helper(helpers / "cycles", "flock-shared", lockspace, "quiet") as quiet:
        assert (crowd.answer(), few.answer()) == ("held", "held")
        times = {crowded: [], quiet: []}
        for _ in range(5):
            for cycles, seen in times.items():
                cycles.tell(rounds)
                seen.append(float(cycles.answer()))
        assert min(times[crowded]) < 3 * min(times[quiet])
        assert get(lockspace / ".locks").count(b"\nquiet\theld\tPR") == 10
        for helper in (crowded, quiet, few, crowd):
            helper.finish()
    wait_until(lambda: not locks(lockspace), PATIENCE)


# --- leaks -----------------------------------------------------------------

@pytest.mark.parametrize("way, share", [("flock", 1), ("open", 10), ("posix", 10), ("ofd", 10)])
def test_nothing_leaks_over_a_million_cycles(daemon, lockspace, helpers, engine, one_cpu, way, share):
    """One way in full, the others for a tenth; a byte lost per round would show."""
    rounds = CYCLES[engine] // share
    if is_sanitized(daemon):
        rounds //= 10                           # it reports its leaks itself, at the end
    with Helper(helpers / "cycles", way, lockspace, "r") as cycles:
        cycles.tell(max(rounds // 20, 1000))
        cycles.answer()
        before = memory(daemon)
        cycles.tell(rounds)
        cycles.answer()
        grown = memory(daemon) - before
        if not is_sanitized(daemon):
            assert grown < rounds / 4 + 64 * KIB
        cycles.finish()
    assert locks(lockspace) == []


# --- idle ------------------------------------------------------------------

IDLE = 1.5                                      # seconds; here it is time that is measured


def wake_ups(daemon):
    """How often its threads have been given a processor."""
    total = 0
    for path in Path(f"/proc/{daemon.pid}/task").glob("*/status"):
        total += sum(int(line.split()[1]) for line in path.read_text(encoding="ascii").splitlines() if "ctxt_switches" in line)
    return total


def sleeps(daemon):
    before = wake_ups(daemon)
    time.sleep(IDLE)
    return wake_ups(daemon) == before


@pytest.mark.parametrize("way", ["flock", "open"])
def test_an_idle_daemon_sleeps(daemon, lockspace, way):
    """Whatever was asked before, and while locks are held: it looks on for microseconds, then not at all."""
    for _ in range(100):
        with taken(way, lockspace, "r"):
            pass
    with taken(way, lockspace, "r"), taken("flock", lockspace, "other"):
        wait_until(lambda: sleeps(daemon), what="the daemon's sleep")
