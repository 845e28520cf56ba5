"""The programs in examples/: each prints what its header says, and several at a time keep what they promise.

With --engine dlm one of each topic runs, and two counters, in languages that start quickly in a guest.
"""

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from lockspacefs_test import (PROJECT, TIMEOUT, get, locks, opened, put, wait_for_poll, wait_for_waiters, wait_until,
                              waiters)

DIRECTORY = PROJECT / "examples"
TOPICS = {
    "counter": ["counter.sh", "counter.py", "counter.js", "Counter.java"],
    "job": ["job.sh", "job.pl"],
    "leader": ["leader.sh", "leader.py", "leader.go"],
    "readers": ["readers.rb", "readers.tcl"],
    "semaphore": ["semaphore.sh", "semaphore.py"],
    "yield": ["yield.py", "yield.rs"],
}
EXAMPLES = [example for examples in TOPICS.values() for example in examples]
COMPILED = {"Counter.java": ["java", "-cp", "build", "Counter"],
            "leader.go": ["build/leader"], "yield.rs": ["build/yield"]}
IN_GUESTS = {"counter.sh", "counter.py", "job.sh", "leader.py", "readers.tcl", "semaphore.sh", "yield.py"}
DEBIAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
MARK = "==== end of command ===="
COMPILING = 120                                 # seconds, on a busy machine

# Refuses if it runs twice at a time, whatever locks of ours say: a file of this machine is the judge. It gives a
# killed process the time to close its files, one after the other; one that goes on has that file for good.
ALONE = "flock -w 5 -E 99 {} sh -c 'echo in; read line'"


def pytest_generate_tests(metafunc):
    """The argument @example is each program of the test's topic, or of all, that is to run on this engine."""
    if "example" in metafunc.fixturenames:
        topic = getattr(metafunc.function, "topic", None)
        metafunc.parametrize("example", runnable(metafunc.config.getoption("--engine"), topic))


def runnable(engine, topic=None):
    return [example for example in TOPICS.get(topic, EXAMPLES)
            if engine == "local" or example in IN_GUESTS]


def about(topic):
    def mark(function):
        function.topic = topic
        return function
    return mark


# --- the header of a program -----------------------------------------------

def header(example):
    """The comment at its beginning, without what makes it a comment."""
    text = (DIRECTORY / example).read_text()
    comment = re.match(r'(?:#!.*\n)?((?:(?:#|//).*\n)+|"""(?:.|\n)*?""")', text)[1]
    return [re.sub(r'^(?:# ?|// ?|""")', "", line.replace("//\t", "//     ")) for line in comment.splitlines()]


def session(example):
    """The commands in it, each with the lines that follow."""
    commands = []
    for line in header(example):
        if line.startswith("    $ "):
            commands.append((line.removeprefix("    $ "), []))
        elif line.startswith("    "):
            commands[-1][1].append(line.removeprefix("    "))
    return commands


def is_build(command):
    return re.match(r"(go build|rustc|javac) ", command)


def living_members(session_id):
    """The processes of a session; those that only wait to be reaped have nothing open any more."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, sid = path.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[:4]
            if int(sid) == session_id and state not in "ZX":
                members.append(int(path.parent.name))
    return members


def kill_session(session_id):
    """SIGKILL to all of them; they are gone with all they had open when this returns."""
    def kill_members():
        members = living_members(session_id)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not members

    wait_until(kill_members, what=f"the end of session {session_id}")


class Shell:
    """Somebody at a shell, who types the next command when the last has printed what it should."""

    def __init__(self, cwd, environment):
        self.bash = subprocess.Popen(["bash"], cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, start_new_session=True)

    def type(self, command, expected):
        self.bash.stdin.write(f"{command}\necho '{MARK}'\n".encode())
        self.bash.stdin.flush()
        seen = ""
        while MARK not in seen or not seen.endswith("\n") or len(self._printed(seen)) < len(expected):
            assert wait_for_poll(self.bash.stdout, select.POLLIN), f"{command}: printed no more than {seen!r}"
            data = os.read(self.bash.stdout.fileno(), 65536)
            assert data, f"{command}: the shell ended after {seen!r}"
            seen += data.decode()
        return self._printed(seen)

    @staticmethod
    def _printed(text):
        """Without the marks, and without what bash says of a job that was killed."""
        return [line for line in text.splitlines() if line != MARK and not re.match(r"bash: line \d+: +\d+ \w+", line)]

    def end(self):
        """All that it printed since the last command, once everything that it started has ended."""
        self.bash.stdin.close()
        rest = ""
        while wait_for_poll(self.bash.stdout, select.POLLIN):
            data = os.read(self.bash.stdout.fileno(), 65536)
            if not data:
                self.bash.wait(TIMEOUT)
                return self._printed(rest)
            rest += data.decode()
        raise AssertionError("what the shell started goes on")

    def kill(self):
        kill_session(self.bash.pid)
        self.bash.wait()
        self.bash.stdout.close()


# --- running them ----------------------------------------------------------

@pytest.fixture(scope="session")
def workplace(request):
    """Where the programs are started, as in the top directory: examples/, and what the headers say is built in build/."""
    place = Path(tempfile.mkdtemp(prefix="lockspacefs-examples-"))
    try:
        (place / "examples").symlink_to(DIRECTORY)
        (place / "build").mkdir()
        (place / "bin").mkdir()
        for program, option in [("java", "-XX:-UsePerfData"), ("javac", "-J-XX:-UsePerfData")]:     # leaves a file in /tmp
            (place / "bin" / program).write_text(f'#!/bin/sh\nexec /usr/bin/{program} {option} "$@"\n')
            (place / "bin" / program).chmod(0o755)
        wanted = runnable(request.config.getoption("--engine"))
        compilers = [subprocess.Popen(["sh", "-c", command], cwd=place, env=environment_in(place))
                     for example in COMPILED if example in wanted
                     for command, _ in session(example) if is_build(command)]
        assert [compiler.wait(COMPILING) for compiler in compilers] == [0] * len(compilers)
        yield place
    finally:
        shutil.rmtree(place)


def environment_in(workplace, **more):
    """Debian's programs, which keep what they like to keep in the workplace, and do not look for more elsewhere."""
    return {"PATH": f"{workplace}/bin:{DEBIAN_PATH}", "LC_ALL": "C.UTF-8", "HOME": str(workplace), "TMPDIR": str(workplace), "GOPROXY": "off",
            "GOFLAGS": "-mod=mod", "PYTHONDONTWRITEBYTECODE": "1", **more}


class Program:
    """An example that runs, with all it starts in a session of its own."""

    def __init__(self, workplace, lockspace, example, arguments):
        command = COMPILED.get(example, [f"examples/{example}"])
        self.name = f"{example} {' '.join(map(str, arguments))}"
        self.process = subprocess.Popen([*command, *map(str, arguments)], cwd=workplace, start_new_session=True,
                                        env=environment_in(workplace, LOCKSPACE=str(lockspace)), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._unread = b""

    def line(self, timeout=TIMEOUT):
        """The next line that it prints, "" at the end of its output."""
        while b"\n" not in self._unread:
            assert wait_for_poll(self.process.stdout, select.POLLIN, timeout), f"no word from {self.name}"
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def says(self, *lines):
        for expected in lines:
            assert (said := self.line()) == expected, f"{self.name} said {said!r}"

    def is_silent(self):
        return not self._unread and not wait_for_poll(self.process.stdout, select.POLLIN, 0)

    def tell(self, line="go on"):
        """To whoever reads its standard input."""
        os.write(self.process.stdin.fileno(), f"{line}\n".encode())

    def rest(self):
        """All further lines, up to the end of the program and of all that it started."""
        lines = []
        while line := self.line():
            lines.append(line)
        return lines

    def status(self):
        return self.process.wait(TIMEOUT)

    def kill(self):
        """With all it started."""
        kill_session(self.process.pid)
        self.process.wait(TIMEOUT)

    def end(self):
        self.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start(workplace, lockspace):
    """Start an example; it is ended after the test."""
    programs = []

    def run(example, *arguments):
        programs.append(Program(workplace, lockspace, example, arguments))
        return programs[-1]

    yield run
    for program in programs:
        program.end()


@pytest.fixture
def alone(directory):
    """A command that says "in" and waits for a line, and that fails if it is started twice at a time."""
    return ["sh", "-c", ALONE.format(directory / "alone")]


def release(lockspace):
    """By force."""
    put(lockspace / ".force", b"1")
    os.rmdir(lockspace)


def some_of_each(topic, engine, number):
    examples = runnable(engine, topic)
    return (examples * number)[:max(number, len(examples))]


# --- what all of them do ---------------------------------------------------

def test_every_example_is_run_and_listed():
    there = {path.name for path in DIRECTORY.iterdir()} - {"quickstart", "README.md", "__pycache__"}
    assert there == set(EXAMPLES)
    listed = re.findall(r"^\| \[([\w.]+)\]\(\1\)", (DIRECTORY / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted([*there, "quickstart"])


def test_it_prints_what_its_header_says(workplace, lockspace, example):
    commands = [(command, output) for command, output in session(example) if not is_build(command)]
    assert commands
    shell = Shell(workplace, environment_in(workplace, LOCKSPACE=str(lockspace)))
    try:
        for command, expected in commands:
            assert shell.type(command.replace("/dlm/web", str(lockspace)), expected) == expected, command
        assert shell.end() == []
    finally:
        shell.kill()


ARGUMENTS = {"counter": [], "job": ["x", "y", "true"], "leader": ["x", "true"], "readers": ["get"],
             "semaphore": ["1", "true"], "yield": []}


def test_without_a_lockspace_it_says_where_it_looked(workplace, directory, example):
    topic = Path(example).stem.lower()
    command = [*COMPILED.get(example, [f"examples/{example}"]), *ARGUMENTS[topic]]
    for environment, place in [({"LOCKSPACE": str(directory / "none")}, str(directory / "none")), ({}, "/dlm/web")]:
        # were something mounted on /dlm, it would not be there for this command
        done = subprocess.run(["unshare", "--mount", "sh", "-c", 'umount -l /dlm 2>/dev/null; exec "$@"', "sh", *command],
                              cwd=workplace, env=environment_in(workplace, **environment), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
        assert done.returncode not in (0, 99) and done.stdout == ""
        assert place + "/" in done.stderr, done.stderr


# --- counter ---------------------------------------------------------------

def count(start, lockspace, examples, times):
    """All at the same time: no number twice, none left out, and everybody's go up."""
    programs = [start(example, times) for example in examples]
    drawn = []
    for program in programs:
        numbers = [int(line) for line in program.rest()]
        assert len(numbers) == times and numbers == sorted(numbers)
        drawn += numbers
        assert program.status() == 0
    assert sorted(drawn) == list(range(1, len(examples) * times + 1))
    assert int(get(lockspace / "tickets")) == len(drawn)


@about("counter")
def test_no_number_is_drawn_twice(start, lockspace, engine, example):
    count(start, lockspace, [example] * 8, 50 if engine == "local" else 5)


def test_counters_of_all_languages_draw_from_one_value(start, lockspace, engine):
    count(start, lockspace, some_of_each("counter", engine, 8), 50 if engine == "local" else 5)


@about("counter")
def test_a_counter_that_is_killed_while_it_waits_draws_nothing(start, lockspace, example):
    with opened(lockspace / ".ex" / "tickets"):
        waiting = start(example)
        wait_for_waiters(lockspace, resource="tickets")
        waiting.kill()
        wait_until(lambda: not waiters(lockspace))
    start(example).says("1", "")


# --- job -------------------------------------------------------------------

def test_one_of_many_jobs_runs_and_the_others_say_so(start, alone):
    first = start("job.sh", "backup", *alone)
    first.says("in")
    for other in [start("job.sh", "backup", *alone) for _ in range(4)]:
        other.says("job.sh: backup runs already", "")
        assert other.status() == 75
    start("job.sh", "cleaning", "echo", "another job").says("another job", "")
    first.tell()
    first.says("")
    assert first.status() == 0
    failing = start("job.sh", "backup", "sh", "-c", "exit 3")
    assert failing.status() == 3


def test_a_job_that_is_killed_can_run_again(start, lockspace, alone):
    first = start("job.sh", "backup", *alone)
    first.says("in")
    first.kill()
    wait_until(lambda: not locks(lockspace))
    start("job.sh", "backup", *alone).says("in")


def test_all_start_the_job_of_a_period_and_one_does_it(start, lockspace, alone):
    programs = [start("job.pl", "report", "monday", *alone) for _ in range(6)]
    wait_for_waiters(lockspace, 5)
    [doing] = wait_until(lambda: [program for program in programs if not program.is_silent()])
    doing.says("in")
    doing.tell()
    doing.says("")
    programs.remove(doing)
    for other in programs:
        other.says("report: done for monday", "")
        assert other.status() == 0
    assert get(lockspace / "report") == b"monday"


@pytest.mark.parametrize("trouble", ["killed", "fails"])
def test_if_one_does_not_do_the_job_of_a_period_the_next_one_does(start, lockspace, alone, trouble):
    first = start("job.pl", "report", "monday", *(alone if trouble == "killed" else ["sh", "-c", "echo in; read line; exit 3"]))
    first.says("in")
    second = start("job.pl", "report", "monday", *alone)
    wait_for_waiters(lockspace)
    assert second.is_silent()
    if trouble == "killed":
        first.kill()
    else:
        first.tell()
        assert first.status() == 3
    second.says("in")
    second.tell()
    second.says("")
    start("job.pl", "report", "monday", *alone).says("report: done for monday")


# --- leader ----------------------------------------------------------------

def depose(leader, how):
    """End a leader whose command waits for a line."""
    if how == "killed":
        leader.kill()
    else:
        leader.process.terminate()              # the program alone
        with contextlib.suppress(BrokenPipeError):
            leader.tell()                       # leader.sh leaves the round to its end; others may have ended by now
        leader.status()


def elect(start, lockspace, alone, examples, how):
    """They lead one after the other, never two at a time; the last one loses the lock."""
    names = [f"candidate {number}" for number in range(len(examples))]
    candidates = {name: start(example, name, *alone) for name, example in zip(names, examples)}
    while True:
        leader = wait_until(lambda: [name for name in candidates if not candidates[name].is_silent()])
        [leader] = leader
        candidates[leader].says(f"{leader} leads", "in")
        if len(candidates) > 1:
            wait_for_waiters(lockspace, len(candidates) - 1)
        assert get(lockspace / "leader") == f"{leader}\n".encode()
        assert all(other.is_silent() for name, other in candidates.items() if name != leader)
        if len(candidates) == 1:
            return leader, candidates[leader]
        depose(candidates.pop(leader), how)


@about("leader")
@pytest.mark.parametrize("how", ["killed", "ended"])
def test_leaders_follow_each_other_and_the_last_one_loses_the_lock(start, lockspace, alone, example, how):
    name, leader = elect(start, lockspace, alone, [example] * 3, how)
    release(lockspace)
    if example == "leader.sh":                  # looks between two rounds
        leader.tell()
    assert f"{name} has lost the lock" in leader.rest()[-1]
    assert leader.status() == 1


def test_leaders_of_all_languages_follow_each_other(start, lockspace, engine, alone):
    elect(start, lockspace, alone, some_of_each("leader", engine, 4), "killed")


@about("leader")
def test_nobody_leads_while_the_command_of_a_killed_leader_goes_on(start, lockspace, alone, example):
    first = start(example, "alice", *alone)
    first.says("alice leads", "in")
    second = start(example, "bob", *alone)
    wait_for_waiters(lockspace)
    first.process.kill()                        # the program alone
    first.process.wait()
    assert second.is_silent() and len(waiters(lockspace)) == 1
    first.tell()
    second.says("bob leads", "in")


@about("leader")
def test_a_leader_ends_with_its_command_if_that_fails(start, example):
    leader = start(example, "alice", "sh", "-c", "exit 3")
    leader.says("alice leads")
    leader.rest()
    assert leader.status() == (1 if example == "leader.go" else 3)


# --- semaphore -------------------------------------------------------------

def in_slot(directory):
    """A command that says its slot and waits for a line, and fails if somebody else is in that slot."""
    return ["sh", "-c", f'flock -w 5 -E 99 "{directory}/slot.$SLOT" sh -c \'echo "$SLOT"; read line\'']


@about("semaphore")
def test_as_many_as_there_are_slots_get_in(start, lockspace, directory, example):
    programs = [start(example, 3, *in_slot(directory)) for _ in range(5)]
    wait_for_waiters(lockspace, 2)
    inside = wait_until(lambda: len(found := [program for program in programs if not program.is_silent()]) == 3 and found)
    slots = {program.line(): program for program in inside}
    assert sorted(slots) == ["1", "2", "3"]
    outside = [program for program in programs if program not in inside]
    for turn, how in enumerate(["ends", "killed"]):
        slot = waiters(lockspace)[0]["resource"].removeprefix("slot.")
        if how == "ends":
            slots[slot].tell()
            assert slots[slot].rest() == [] and slots[slot].status() == 0
        else:
            slots[slot].kill()
        [entered] = wait_until(lambda: [program for program in outside if not program.is_silent()])
        entered.says(slot)
        slots[slot] = entered
        outside.remove(entered)
        assert len(waiters(lockspace)) == len(outside) == 1 - turn


def test_semaphores_of_all_languages_share_the_slots(start, engine, directory):
    command = ["sh", "-c", f'flock -n -E 99 "{directory}/slot.$SLOT" echo "$SLOT"']
    programs = [start(example, 2, *command) for example in some_of_each("semaphore", engine, 30 if engine == "local" else 6)]
    said = [program.rest() for program in programs]
    assert [program.status() for program in programs] == [0] * len(programs)
    assert all(slot in (["1"], ["2"]) for slot in said) and ["1"] in said


# --- readers ---------------------------------------------------------------

@about("readers")
def test_a_writer_waits_for_the_readers_and_they_do_not_for_each_other(start, lockspace, example):
    start(example, "set", "rev 42").says("")
    with opened(lockspace / "config") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        for program in [start(example, "get") for _ in range(3)]:
            program.says("rev 42", "")
        doomed = start(example, "set", "never")
        doomed.says(f"{example}: waiting")
        wait_for_waiters(lockspace)
        doomed.kill()
        wait_until(lambda: not waiters(lockspace))
        writer = start(example, "set", "r 7")
        writer.says(f"{example}: waiting")
        wait_for_waiters(lockspace)
        queued = start(example, "get")
        queued.says(f"{example}: waiting")      # behind him
        assert writer.is_silent()
    assert writer.rest() == [] and writer.status() == 0
    queued.says("r 7", "")
    assert get(lockspace / "config") == b"r 7"


def test_readers_of_all_languages_see_whole_values(start, lockspace, engine):
    values = [letter * length for letter, length in zip("abcdef", [32, 1, 20, 31, 2, 32])]
    examples = some_of_each("readers", engine, len(values))
    start(examples[0], "set", values[0]).says("")
    writers = [start(example, "set", value) for example, value in zip(examples, values)]
    readers = [start(example, "get") for example in examples]
    for reader in readers:
        assert reader.rest()[-1] in values
        assert reader.status() == 0
    for writer in writers:
        assert writer.rest() in ([], [writer.name.split()[0] + ": waiting"]) and writer.status() == 0
    assert get(lockspace / "config").decode() in values


# --- yield -----------------------------------------------------------------

def test_two_who_yield_to_each_other_never_hold_together(workplace, lockspace, engine):
    """All write to one pipe: between two that hold there is always one that yields."""
    examples = some_of_each("yield", engine, 3)
    commands = " & ".join(" ".join(COMPILED.get(example, [f"examples/{example}"])) for example in examples)
    shell = Shell(workplace, environment_in(workplace, LOCKSPACE=str(lockspace)))
    try:
        rounds = 100 if engine == "local" else 10
        lines = shell.type(f"{commands} &", ["holding", "yielding"] * rounds)
        assert lines == [["holding", "yielding"][i % 2] for i in range(len(lines))]
    finally:
        shell.kill()


@about("yield")
def test_who_yields_lets_everybody_first_who_waits(start, lockspace, example):
    program = start(example)
    program.says("holding")
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(opened(lockspace / "cache"))
        fcntl.flock(fd, fcntl.LOCK_EX)
        program.says("yielding")
        wait_for_waiters(lockspace)
        assert program.is_silent()
    program.says("holding")
    assert [row["mode"] for row in locks(lockspace)] == ["EX"]
