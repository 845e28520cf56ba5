"""lockspacefs run: a command under a lock, with real signals, terminals, and locks that are lost."""

import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from locking import held, is_free, taken
from lockspacefs_test import (MODES, NOBODY, TIMEOUT, daemon_path, get, locks, make_lockspace, process_state, put,
                              remove_lockspace, run_as, umount, wait_for_exit, wait_for_waiters, wait_until, waiters)

LOST = 124
USAGE, NO_INPUT, UNAVAILABLE, OS_ERROR, NO_PERMISSION, BAD_DATA = 64, 66, 69, 71, 77, 65

STAY = "echo ready; read line"                  # until a line of its input, or its end
# Says what signals it gets, each in a line; TERM ends it with status 7.
SAY_SIGNALS = """
import os, signal, sys
numbers = [getattr(signal, "SIG" + name) for name in ["INT", "HUP", "QUIT", "USR1", "USR2", "TERM", "WINCH", "ALRM", "CONT"]]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)       # one that comes just before pause() would not end it
print("ready", flush=True)
while True:
    number = signal.sigwait(numbers)
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    if number == signal.SIGTERM:
        sys.exit(7)
"""
IGNORE_TERM = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"]


def command(*arguments):
    return [str(daemon_path().resolve()), "run", *map(str, arguments)]


def run(*arguments, **kwargs):
    """To its end; a CompletedProcess with text output."""
    return subprocess.run(command(*arguments), text=True, timeout=TIMEOUT, check=False,
                          **{"stdin": subprocess.DEVNULL, "capture_output": True, **kwargs})


def children(parent):
    """By /proc/PID/stat: not every kernel has lists of children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rsplit(")", 1)[1].split()
        except OSError:
            continue                            # it has ended
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


class Running(subprocess.Popen):
    def __init__(self, *arguments, **kwargs):
        super().__init__(command(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         start_new_session=True, **kwargs)

    def says(self, line="ready"):
        assert select.select([self.stdout], [], [], TIMEOUT)[0], f"waited for {line!r}"
        assert self.stdout.readline() == line + "\n"
        return self

    def status(self):
        """Its exit status; nothing else may be left in self.stdout."""
        return self.wait(TIMEOUT)

    def child(self):
        """The command's process."""
        return wait_until(lambda: children(self.pid))[0]


@pytest.fixture
def start():
    started = []

    def begin(*arguments, **kwargs):
        started.append(Running(*arguments, **kwargs))
        return started[-1]
    yield begin
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


@pytest.fixture
def lock(lockspace):
    return lockspace / "r"


# --- the lock --------------------------------------------------------------

def test_runs_the_command_in_each_mode(lockspace, lock, start):
    for mode in [*MODES, "EX", "Pr"]:
        process = start("-m", mode, lock, "sh", "-c", STAY).says()
        assert held(lockspace, "r") == [(mode.lower(), "open")]
        process.communicate("\n")
        assert process.status() == 0 and held(lockspace, "r") == []


def test_the_lock_is_exclusive_if_nothing_is_said(lockspace, lock, start):
    start(lock, "sh", "-c", STAY).says()
    assert held(lockspace, "r") == [("ex", "open")] and not is_free(lockspace, "r", "cr")


def test_a_path_in_a_mode_directory_is_that_mode(lockspace, start):
    start(lockspace / ".pr/r", "sh", "-c", STAY).says()
    assert held(lockspace, "r") == [("pr", "open")]
    start("-m", "pr", "r", "sh", "-c", STAY, cwd=lockspace / ".pr").says()
    done = run("-m", "ex", lockspace / ".pr/r", "true")
    assert done.returncode == USAGE and "this path means mode PR" in done.stderr


def test_relative_paths_and_links_lead_to_the_lock(lockspace, directory, start):
    start("r", "sh", "-c", STAY, cwd=lockspace).says()
    (directory / "link").symlink_to(lockspace / "s")
    start("-n", "link", "sh", "-c", STAY, cwd=directory).says()
    assert sorted(row["resource"] for row in locks(lockspace)) == ["r", "s"]


def test_a_link_leads_on_from_where_it_is(lockspace, directory, start):
    (directory / "link").symlink_to("way/r")
    (directory / "way").symlink_to(lockspace)
    start(directory / "link", "sh", "-c", STAY).says()
    assert held(lockspace, "r") == [("ex", "open")]


def test_links_that_lead_to_each_other_are_refused(directory):
    (directory / "one").symlink_to("two")
    (directory / "two").symlink_to("one")
    done = run(directory / "one", "true")
    assert done.returncode == NO_INPUT and "Too many levels of symbolic links" in done.stderr


def test_the_name_needs_not_exist_and_is_not_listed(lockspace, lock):
    assert run(lock, "true").returncode == 0
    assert list(lockspace.iterdir()) == []


def test_who_may_only_read_gets_the_modes_of_readers(lockspace, lock):
    lock.touch()
    lock.chmod(0o644)
    lockspace.chmod(0o755)
    assert run_as(NOBODY, command("-m", "pr", lock, "true")).returncode == 0
    done = run_as(NOBODY, command(lock, "true"))
    assert done.returncode == NO_PERMISSION and "mode EX: Permission denied" in done.stderr


def test_who_may_not_enter_the_lockspace(lockspace):
    lockspace.chmod(0o700)
    done = run_as(NOBODY, command(lockspace / ".ex" / "job", "true"))
    assert done.returncode == NO_PERMISSION and ".ex/job: Permission denied" in done.stderr


def test_who_may_only_write_gets_the_lock_without_the_value(lockspace, lock):
    put(lockspace / ".ex/r", b"secret")
    lock.chmod(0o622)
    done = run_as(NOBODY, command(lock, "sh", "-c", "echo ${LOCKSPACEFS_VALUE-unset}"))
    assert (done.returncode, done.stdout) == (0, "unset\n")


# --- waiting ---------------------------------------------------------------

def test_a_lock_that_is_not_to_be_had(lockspace, lock):
    for options in [["-n"], ["-w", "0"], ["-w", "0.05"], ["--wait=0.05"]]:
        with taken("flock", lockspace, "r"):
            done = run(*options, lock, "echo", "mine")
            assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
            assert run(*options, "-E", "75", lock, "true").returncode == 75
            wait_until(lambda: waiters(lockspace) == [])
        assert run(*options, lock, "true").returncode == 0


def test_a_timeout_is_kept(lockspace, lock):
    with taken("flock", lockspace, "r"):
        begin = time.monotonic()
        assert run("-w", "1.2", lock, "true").returncode == 1
        assert 1.2 <= time.monotonic() - begin < 10


def test_waits_and_then_runs(lockspace, lock, start):
    with taken("flock", lockspace, "r"):
        process = start("-w", TIMEOUT, lock, "echo", "mine")
        wait_for_waiters(lockspace)
    process.says("mine")
    assert process.status() == 0


def test_a_signal_while_waiting_ends_it_like_any_program(lockspace, lock, start):
    with taken("flock", lockspace, "r"):
        for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM]:
            process = start(lock, "echo", "mine")
            wait_for_waiters(lockspace)
            process.send_signal(number)
            assert process.status() == -number and process.stdout.read() == ""
            wait_until(lambda: not waiters(lockspace))


def test_a_stop_while_waiting_does_not_end_it(lockspace, lock, start):
    with taken("flock", lockspace, "r"):
        process = start(lock, "echo", "mine")
        wait_for_waiters(lockspace)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process_state(process.pid) == "T")
        process.send_signal(signal.SIGCONT)
        wait_for_waiters(lockspace)
    process.says("mine")


def test_a_lockspace_that_goes_while_we_wait(lockspace, lock, start):
    with taken("flock", lockspace, "r"):
        process = start(lock, "true")
        wait_for_waiters(lockspace)
        remove_lockspace(lockspace)
        assert process.status() == UNAVAILABLE and "its lockspace was removed" in process.stderr.read()


def test_an_alarm_from_before_still_rings(lockspace, lock):
    """`perl -e 'alarm …; exec …'`: our time-out must not take its timer."""
    with taken("flock", lockspace, "r"):
        done = subprocess.run(["perl", "-e", "alarm 1; exec @ARGV", *command("-w", TIMEOUT, lock, "true")], timeout=TIMEOUT)
        assert done.returncode == -signal.SIGALRM


# --- the command -----------------------------------------------------------

def test_exit_status_is_the_commands(lock):
    for script, status in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]:
        assert run(lock, "sh", "-c", script).returncode == status


def test_a_command_that_cannot_be_executed(lockspace, lock, directory):
    (directory / "text").write_text("")
    missing, forbidden = run(lock, directory / "missing"), run(lock, directory / "text")
    assert missing.returncode == 127 and f"{directory}/missing: No such file or directory" in missing.stderr
    assert forbidden.returncode == 126 and "Permission denied" in forbidden.stderr
    assert is_free(lockspace, "r")


def test_options_after_the_lock_file_are_the_commands(lock):
    assert run(lock, "echo", "-n", "--help").stdout == "--help"
    assert run(lock, "--", "echo", "-m", "--").stdout == "-m --\n"
    assert run("--", lock, "--", "echo", "x").stdout == "x\n"


def test_the_command_has_none_of_our_descriptors(lock):
    done = run(lock, "sh", "-c", "ls /proc/$$/fd; true", close_fds=True)
    assert done.stdout.split() == ["0", "1", "2"]


def test_closed_descriptors_do_not_become_the_lock(lockspace, lock):
    put(lockspace / ".ex/r", b"value")
    script = f"exec {' '.join(command(lock, 'sh', '-c', 'echo spoilt; echo spoilt >&2'))} <&- >&- 2>&-"
    subprocess.run(["sh", "-c", script], timeout=TIMEOUT, check=False)
    assert get(lockspace / ".pr/r") == b"value"


def test_the_lock_is_let_go_although_something_stays_in_the_background(lockspace, lock, start):
    process = start(lock, "sh", "-c", "sleep 1000 & echo $!")
    left = int(process.stdout.readline())
    assert process.status() == 0
    assert not wait_for_exit(left, 0) and is_free(lockspace, "r")
    os.kill(left, signal.SIGKILL)


def test_signal_mask_and_ignored_signals_are_the_callers(lock):
    script = "import re; print(*re.findall(r'Sig(?:Blk|Ign):\\t0*(\\w*)', open('/proc/self/status').read()))"

    def prepare():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1])

    plain = subprocess.run(["sh", "-c", f'exec {sys.executable} -c "$1"', "sh", script], capture_output=True, text=True, preexec_fn=prepare)
    done = run(lock, "sh", "-c", f'exec {sys.executable} -c "$1"', "sh", script, preexec_fn=prepare)
    assert done.returncode == 0 and done.stdout == plain.stdout and plain.stdout.startswith("200 ")


# --- signals ---------------------------------------------------------------

def test_signals_that_were_sent_reach_the_command_once(lock, start):
    process = start(lock, sys.executable, "-c", SAY_SIGNALS).says()
    for name in ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM", "SIGCONT", "SIGTERM"]:
        process.send_signal(getattr(signal, name))
        process.says(name)
    assert process.status() == 7 and process.stdout.read() == ""


def test_the_command_dies_with_us(lockspace, lock, start):
    process = start(lock, *IGNORE_TERM).says()
    child = process.child()
    process.kill()
    process.wait(TIMEOUT)
    assert wait_for_exit(child)
    wait_until(lambda: is_free(lockspace, "r"))


def test_a_command_that_was_stopped_by_hand_is_waited_for(lock, start):
    process = start(lock, "sh", "-c", STAY).says()
    child = process.child()
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: process_state(child) == "T")
    os.kill(child, signal.SIGCONT)
    process.communicate("\n")
    assert process.status() == 0


class Terminal:
    """bash on a terminal, as a person has it."""

    def __init__(self, *arguments, **environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe("bash", ["bash", *arguments], {**os.environ, "PS1": "prompt:", "HISTFILE": "", **environment})
        attributes = termios.tcgetattr(self.fd)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(self.fd, termios.TCSANOW, attributes)
        self.seen = ""

    def types(self, text):
        os.write(self.fd, text.encode())

    def shows(self, pattern):
        """Read until the pattern; what came up to and with it is a match."""
        deadline = time.monotonic() + TIMEOUT
        while not (match := re.search(pattern, self.seen)):
            assert select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0], f"{pattern!r} not in {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode()
        self.seen = self.seen[match.end():]
        return match

    def end(self):
        for child in children(self.pid):
            os.kill(child, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal():
    running = Terminal("--norc", "--noprofile", "--noediting", "-i")
    yield running
    running.end()


def test_on_a_terminal(lockspace, lock, terminal, directory):
    """Ctrl-C reaches the command once; Ctrl-Z stops both, fg continues both."""
    script = directory / "script.py"
    script.write_text(SAY_SIGNALS)
    terminal.shows("prompt:")
    terminal.types(" ".join(command(lock, sys.executable, script)) + "\n")
    terminal.shows("ready\r\n")
    [holder] = [row["pid"] for row in locks(lockspace)]
    [child] = children(holder)
    terminal.types("\x03")
    terminal.shows("^SIGINT\r\n|SIGINT\r\n")
    terminal.types("\x1a")
    terminal.shows("Stopped")
    terminal.shows("prompt:")
    assert process_state(holder) == process_state(child) == "T"
    assert not is_free(lockspace, "r")
    terminal.types("fg\n")
    terminal.shows("SIGCONT\r\n")
    wait_until(lambda: process_state(holder) == process_state(child) == "S")
    terminal.types("\x1c")
    terminal.shows("SIGQUIT\r\n")
    os.kill(holder, signal.SIGTERM)
    assert terminal.shows(r"(?s)(.*)SIGTERM\r\n")[1].count("SIG") <= 1      # of SIGCONT: the terminal's, and the shell's
    terminal.shows("prompt:")
    terminal.types("echo status $?\n")
    terminal.shows("status 7\r\n")


# --- losing the lock -------------------------------------------------------

def test_a_lockspace_removed_by_force_ends_the_command(lockspace, lock, start):
    process = start(lock, sys.executable, "-c", SAY_SIGNALS).says()
    remove_lockspace(lockspace)
    process.says("SIGTERM")
    assert process.status() == LOST
    assert "the lock is lost, its lockspace was removed by force; ending the command" in process.stderr.read()


def test_a_killed_daemon_ends_the_command(daemon, lock, start):
    process = start(lock, sys.executable, "-c", SAY_SIGNALS).says()
    daemon.kill()
    daemon.excused = True
    process.says("SIGTERM")
    assert process.status() == LOST and "lockspacefs is gone" in process.stderr.read()
    umount(daemon.mountpoint, lazily=True)


def test_who_ignores_sigterm_is_killed_after_a_while(lockspace, lock, start):
    process = start("-k", "0.2", lock, *IGNORE_TERM).says()
    remove_lockspace(lockspace)
    assert process.status() == LOST and "killing the command" in process.stderr.read()


def test_what_the_command_runs_ends_too(lockspace, lock, start):
    """A script dies of SIGTERM before what it runs: we stay until that has ended, and kill it at last."""
    process = start("-k", "0.2", lock, "sh", "-c", '"$@"; true', "sh", *IGNORE_TERM).says()
    child = process.child()
    [grandchild] = children(child)
    remove_lockspace(lockspace)
    assert process.status() == LOST
    assert wait_for_exit(grandchild)


def test_a_session_of_its_own_is_left_alone(lockspace, lock, start):
    process = start(lock, "sh", "-c", "setsid sleep 1000 & echo $!; read line")
    left = int(process.stdout.readline())
    wait_until(lambda: os.getsid(left) == left)
    remove_lockspace(lockspace)
    assert process.status() == LOST
    assert not wait_for_exit(left, 0)
    os.kill(left, signal.SIGKILL)


def test_a_stopped_command_ends_too(lockspace, lock, start):
    process = start(lock, "sh", "-c", STAY).says()
    child = process.child()
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: process_state(child) == "T")
    remove_lockspace(lockspace)
    assert process.status() == LOST


def test_a_daemon_that_is_told_to_end_keeps_the_lock(daemon, lock, start):
    process = start("-v", "kept", lock, sys.executable, "-c", SAY_SIGNALS).says()
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: "ending:" in daemon.log)
    process.send_signal(signal.SIGUSR1)         # it is there, and was not told to end
    process.says("SIGUSR1")
    before = os.times()
    process.send_signal(signal.SIGTERM)
    process.says("SIGTERM")
    assert process.status() == 7 and process.stderr.read() == ""
    assert daemon.wait() == 0
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2     # no busy loop


def test_a_second_signal_to_the_daemon_loses_the_lock(daemon, lock, start):
    process = start(lock, sys.executable, "-c", SAY_SIGNALS).says()
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: "ending:" in daemon.log)
    daemon.signal(signal.SIGTERM)
    process.says("SIGTERM")
    assert process.status() == LOST and daemon.wait() == 0


def test_yielding_when_somebody_waits(lockspace, lock, start):
    process = start("-y", "usr1", lock, sys.executable, "-c", SAY_SIGNALS).says()
    waiter = start(lock, "echo", "mine")
    process.says("SIGUSR1")
    process.send_signal(signal.SIGTERM)
    assert process.status() == 7
    waiter.says("mine")


# --- the value -------------------------------------------------------------

SHOW = 'echo "<${LOCKSPACEFS_VALUE-unset}> ${LOCKSPACEFS_VALUE_LOST-kept}"'


def shown(*arguments):
    done = run(*arguments, "sh", "-c", SHOW)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def test_the_value_is_in_the_environment(lockspace, lock):
    assert [shown("-m", mode, lock) for mode in MODES] == ["<> kept"] * 6
    put(lockspace / ".ex/r", b"rev 42\n")
    assert [shown("-m", mode, lock) for mode in MODES] == ["<rev 42> kept"] * 6


def test_a_value_of_32_bytes_and_one_that_is_no_utf8(lockspace, lock):
    put(lockspace / ".ex/r", b"x" * 32)
    assert shown(lock) == f"<{'x' * 32}> kept"
    put(lockspace / ".ex/r", b"\xff\xfe!")
    assert os.fsencode(run(lock, "sh", "-c", SHOW, errors="surrogateescape").stdout) == b"<\xff\xfe!> kept\n"


def test_a_binary_value_is_in_the_file_only(lockspace, lock):
    put(lockspace / ".ex/r", b"a\0b\n")
    assert shown(lock) == "<unset> kept"
    assert run(lock, "sh", "-c", 'cat "$LOCKSPACEFS_VALUE_FILE"').stdout == "a\0b\n"


def test_an_outer_run_does_not_shine_through(lockspace, lock):
    put(lockspace / ".ex/r", b"outer")
    put(lockspace / ".ex/s", b"a\0b")
    assert shown(lock, *command(lockspace / "s")) == "<unset> kept"


def test_the_command_writes_a_new_value(lockspace, lock):
    script = 'echo $((LOCKSPACEFS_VALUE + 1)) >"$LOCKSPACEFS_VALUE_FILE"'
    for count, shell in enumerate([["sh"], ["bash"], ["busybox", "sh"]], 1):
        assert run(lock, *shell, "-c", script).returncode == 0
        assert get(lockspace / ".pr/r") == b"%d\n" % count


def test_a_counter_under_competition(lockspace, lock, start):
    script = 'echo $((LOCKSPACEFS_VALUE + 1)) >"$LOCKSPACEFS_VALUE_FILE"'
    several = [start(lock, "sh", "-c", script) for _ in range(20)]
    assert [process.status() for process in several] == [0] * 20
    assert get(lockspace / ".pr/r") == b"20\n"


def test_a_value_is_set_on_success_only(lockspace, lock):
    assert run("-v", "old", lock, "true").returncode == 0
    assert run("-v", "new", lock, "false").returncode == 1
    assert run(lock, "sh", "-c", 'echo new >"$LOCKSPACEFS_VALUE_FILE"; exit 3').returncode == 3
    assert run(lock, "sh", "-c", 'echo new >"$LOCKSPACEFS_VALUE_FILE"; kill $$').returncode == 143
    assert get(lockspace / ".pr/r") == b"old"
    assert run("--value=a longer new value", lock, "true").returncode == 0
    assert run("-v", "short", lock, "true").returncode == 0
    assert get(lockspace / ".pr/r") == b"short"


def test_what_the_command_wrote_counts_more_than_the_option(lockspace, lock):
    assert run("-v", "option", lock, "sh", "-c", 'printf file >"$LOCKSPACEFS_VALUE_FILE"').returncode == 0
    assert get(lockspace / ".pr/r") == b"file"


def test_a_value_can_be_cleared(lockspace, lock):
    for arguments in [("-v", "", lock, "true"), (lock, "sh", "-c", ': >"$LOCKSPACEFS_VALUE_FILE"')]:
        put(lockspace / ".ex/r", b"old")
        assert run(*arguments).returncode == 0
        assert get(lockspace / ".pr/r") == b""


def test_a_value_that_is_too_long_changes_nothing(lockspace, lock):
    put(lockspace / ".ex/r", b"old")
    done = run(lock, "sh", "-c", 'printf %33s x >"$LOCKSPACEFS_VALUE_FILE"')
    assert done.returncode == BAD_DATA and "more than 32 bytes" in done.stderr
    done = run("-v", "x" * 33, lock, "echo", "started")
    assert done.returncode == USAGE and done.stdout == "" and "32 bytes at most" in done.stderr
    assert get(lockspace / ".pr/r") == b"old"


def test_a_mode_that_does_not_write(lockspace, lock):
    for mode in ["nl", "cr", "cw", "pr"]:
        done = run("-m", mode, "-v", "x", lock, "echo", "started")
        assert done.returncode == USAGE and done.stdout == "" and "pw or ex" in done.stderr
        assert run("-m", mode, lock, "sh", "-c", 'echo x >"$LOCKSPACEFS_VALUE_FILE"').returncode != 0
    assert get(lockspace / ".pr/r") == b""
    assert run("-m", "pw", "-v", "x", lock, "true").returncode == 0


# --- what goes wrong -------------------------------------------------------

@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("pw", "ex")])
def test_touching_the_file_writes_no_value(lockspace, lock, mode):
    for command in ["touch", ": >"]:
        done = run("-m", mode, lock, "sh", "-c", f'{command} "$LOCKSPACEFS_VALUE_FILE"')
        assert (done.returncode, done.stderr) == (0, "")
    assert get(lockspace / ".pr" / lock.name) == b""


@pytest.mark.parametrize("descriptors", range(5, 12))
def test_without_descriptors_it_says_so(lock, descriptors):
    """What the command then says is its own affair: `true` needs its libraries."""
    done = run(lock, "true", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, 100)))
    if done.returncode not in (0, 127):
        assert done.returncode == OS_ERROR and "Too many open files" in done.stderr


def test_a_user_at_his_limit_is_told_which(make_daemon):
    lockspace = make_lockspace(make_daemon("max_locks=1").mountpoint, "web", 0o777)
    done = run_as(NOBODY, command(lockspace / "one", *command(lockspace / "two", "true")))
    assert done.returncode == UNAVAILABLE and "max_locks" in done.stderr


def test_wrong_options_say_what_is_wrong(lock):
    for arguments, word in [(["-m", "xx", lock, "true"], "no such mode"), (["-n", "-w", "1", lock, "true"], "say one of them"),
                            (["-w", "-1", lock, "true"], "-w -1: write seconds"), (["-w", "nan", lock, "true"], "-w nan: write seconds"),
                            (["-w", "soon", lock, "true"], "soon"), (["-w", "1000001", lock, "true"], "1000000 at most"),
                            (["-k", "1s", lock, "true"], "-k 1s: write seconds"),
                            (["-E", "256", lock, "true"], "from 0 to 255"), (["-y", "NOPE", lock, "true"], "no such signal"),
                            (["--nope", lock, "true"], "--nope"), ([lock], "no command given"), ([lock, "--"], "no command given"),
                            ([], "no lock file given"), (["", "true"], "no name")]:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (USAGE, "") and word in done.stderr, (arguments, done.stderr)
        assert done.stderr.startswith("lockspacefs run: ")


def test_what_is_not_a_lock_file(mount, lockspace, directory):
    (lockspace / "r").touch()
    for path, word in [(directory / "file", "not on a lockspacefs"), (directory, "not on a lockspacefs"), (mount, "this is a mount point"),
                       (f"{mount}/.", "this is a mount point"), (mount / ".status", "not the name of a lock"),
                       (lockspace, "this is a lockspace"), (f"{lockspace}/", "this is a lockspace"), (mount / "deploy", "make one with mkdir"),
                       (mount / "none/r", "make that with mkdir"), (lockspace / ".locks", "not the name of a lock"),
                       (lockspace / ".ex", "not the name of a lock"), (lockspace / ".ex/.", "not the name of a lock"),
                       (lockspace / "a%2fb", "not the name of a lock"), (lockspace / ("x" * 65), "64 bytes at most"),
                       (lockspace / "r/s", "Not a directory")]:
        done = run(path, "echo", "started")
        assert (done.returncode, done.stdout) == (NO_INPUT, "") and word in done.stderr, (path, done.stderr)


def test_a_dead_mount_says_what_to_do(daemon, lock):
    daemon.kill()
    daemon.excused = True
    done = run(lock, "true")
    assert done.returncode == UNAVAILABLE and "umount and mount again" in done.stderr
    umount(daemon.mountpoint, lazily=True)


def test_help_is_help():
    done = run("--help")
    assert done.returncode == 0 and "LOCKFILE [--] COMMAND" in done.stdout
