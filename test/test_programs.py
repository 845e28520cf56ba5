"""Programs as Debian ships them, as clients: they exclude each other, time out, and let go when killed.

All run in the lockspace and lock "deploy". Missing programs fail the tests.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locking import held, is_free, taken
from lockspacefs_test import (NOBODY, TIMEOUT, get, locks, opened, put, run_as, touch, wait_for_poll,
                              wait_for_waiters, wait_until, waiters)

SHELLS = {"bash": ["bash", "-c"], "dash": ["dash", "-c"], "busybox": ["busybox", "sh", "-c"]}

PYTHON = [sys.executable, "-c"]
PYTHON_OPEN = "import fcntl, struct, sys; f = open('deploy', 'a+'); "
PYTHON_ALARM = """
import signal, sys
signal.signal(signal.SIGALRM, lambda number, frame: sys.exit(7))
signal.setitimer(signal.ITIMER_REAL, 0.3)
"""
PYTHON_STAY = "; print('locked', flush=True); sys.stdin.readline()"
PYTHON_LOCKS = {
    "flock": "fcntl.flock(f, fcntl.LOCK_EX)",
    "lockf": "fcntl.lockf(f, fcntl.LOCK_EX)",
    "ofd": "fcntl.fcntl(f, 38, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))",     # F_OFD_SETLKW
}

PERL = ["perl", "-e"]
PERL_OPEN = "use Fcntl ':flock'; $| = 1; open(my $f, '+>>', 'deploy') or die; "
PERL_STAY = 'print "locked\\n"; <STDIN>;'

NODE = ["node", "-e"]
NODE_OPEN = "const fs = require('fs'); const fd = fs.openSync('.ex/deploy', 'r+'); "
NODE_STAY = "fs.writeSync(1, 'locked\\n'); fs.readSync(0, Buffer.alloc(64));"
NODE_TRY = """
const fs = require('fs');
try {
  fs.openSync('.ex/deploy', fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
} catch (error) {
  process.exitCode = error.code == 'EAGAIN' ? 7 : 1;
}
"""


def in_each_shell(name, script):
    return {f"{shell}: {name}": [*command, script] for shell, command in SHELLS.items()}


# Each takes the lock, says "locked", and keeps it until a line of its input.
CLIENTS = {
    "flock": ["flock", "deploy", "sh", "-c", "echo locked; read line"],
    "flock -x": ["flock", "-x", "deploy", "-c", "echo locked; read line"],
    **in_each_shell("flock 9>", "( flock 9 || exit 1; echo locked; read line ) 9>deploy"),
    **in_each_shell("flock 9<>", "( flock -x 9 || exit 1; echo locked; read line ) 9<>deploy"),
    "flock 9<": ["sh", "-c", "( flock 9 || exit 1; echo locked; read line ) 9<deploy"],
    "exec 9>": ["sh", "-c", "exec 9>deploy; flock 9 || exit 1; echo locked; read line"],
    "bash: {fd}>": ["bash", "-c", "exec {fd}>deploy; flock $fd || exit 1; echo locked; read line"],
    **in_each_shell("mode directory >", "exec 9>.ex/deploy || exit 1; echo locked; read line"),
    **in_each_shell("mode directory <>", "exec 9<>.ex/deploy || exit 1; echo locked; read line"),
    **in_each_shell("mode directory >>", "{ echo locked; read line; } 3>>.ex/deploy"),
    **{f"python {name}": [*PYTHON, PYTHON_OPEN + call + PYTHON_STAY] for name, call in PYTHON_LOCKS.items()},
    "python mode directory": [*PYTHON, "import sys; f = open('.ex/deploy', 'rb+', 0)" + PYTHON_STAY],
    "perl flock": [*PERL, PERL_OPEN + "flock($f, LOCK_EX) or die; " + PERL_STAY],
    "perl mode directory": [*PERL, "$| = 1; open(my $f, '+<', '.ex/deploy') or die; " + PERL_STAY],
    "node mode directory": [*NODE, NODE_OPEN + NODE_STAY],
}

# Each wants the lock that somebody has, and ends by itself with this status.
IMPATIENT = {
    "flock -n": (["flock", "-n", "deploy", "true"], 1),
    "flock -n -s": (["flock", "-n", "-s", "deploy", "true"], 1),
    "flock -n -E": (["flock", "-n", "-E", "42", "deploy", "true"], 42),
    "flock -w": (["flock", "-w", "0.3", "deploy", "true"], 1),
    "flock -w -E": (["flock", "-w", "0.3", "-E", "42", "deploy", "true"], 42),
    "flock -w -s": (["flock", "-w", "0.3", "-s", "deploy", "true"], 1),
    "flock -n 9>": (["sh", "-c", "( flock -n 9 || exit 7 ) 9>deploy"], 7),
    "flock -w 9>": (["sh", "-c", "( flock -w 0.3 9 || exit 7 ) 9>deploy"], 7),
    **{f"timeout {name}": (["timeout", "0.3", *shell, "exec 9>.ex/deploy"], 124) for name, shell in SHELLS.items()},
    "timeout node": (["timeout", "2", *NODE, NODE_OPEN], 124),
    "timeout flock": (["timeout", "0.3", "flock", "deploy", "true"], 124),
    **{f"python {name}, alarm": ([*PYTHON, PYTHON_ALARM + PYTHON_OPEN + call], 7)
       for name, call in PYTHON_LOCKS.items()},
    "python flock, try": ([*PYTHON, PYTHON_OPEN + "\ntry: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
                           "except BlockingIOError: sys.exit(7)"], 7),
    "python lockf, try": ([*PYTHON, PYTHON_OPEN + "\ntry: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
                           "except BlockingIOError: sys.exit(7)"], 7),
    "python mode directory, try": ([*PYTHON, "import os, sys\ntry: os.open('.ex/deploy', os.O_RDWR | os.O_NONBLOCK)\n"
                                    "except BlockingIOError: sys.exit(7)"], 7),
    "perl flock, alarm": ([*PERL, PERL_OPEN + "$SIG{ALRM} = sub { exit 7 }; alarm 1; flock($f, LOCK_EX);"], 7),
    "perl flock, try": ([*PERL, PERL_OPEN + "exit(flock($f, LOCK_EX | LOCK_NB) ? 0 : $!{EWOULDBLOCK} ? 7 : 1)"], 7),
    "node mode directory, try": ([*NODE, NODE_TRY], 7),
}


def living_members(group):
    """The processes of a group; those that only wait to be reaped have nothing open any more."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == group and state not in "ZX":
            members.append(path.parent.name)
    return members


class Program:
    """One of the clients, with all that it starts, in a process group of its own."""

    def __init__(self, command, cwd):
        assert shutil.which(command[0]), f"{command[0]} is not installed"
        self.process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        start_new_session=True)

    def says(self, what, timeout=TIMEOUT):
        """Wait for a line of its output."""
        line = b""
        while not line.endswith(b"\n"):
            assert wait_for_poll(self.process.stdout, select.POLLIN, timeout), f"no word from {self.process.args}"
            line += os.read(self.process.stdout.fileno(), 1000) or b" and ended\n"
        assert line == what.encode() + b"\n", f"{self.process.args} said {line!r}"

    def is_silent(self):
        return not wait_for_poll(self.process.stdout, select.POLLIN, 0)

    def finish(self):
        """Let it go on to its end, which is a good one."""
        self.process.stdin.write(b"go on\n")
        self.process.stdin.close()
        assert self.process.wait(TIMEOUT) == 0

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        """SIGKILL to it and to all it started; they are gone with all they had open when this returns."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.wait(TIMEOUT)
        wait_until(lambda: not living_members(self.process.pid))

    def end(self):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start(lockspace):
    """Start a program in the lockspace; it is ended after the test."""
    programs = []
    touch(lockspace / "deploy")

    def run(command):
        programs.append(Program(command, lockspace))
        return programs[-1]

    yield run
    for program in programs:
        program.end()


def run(lockspace, command):
    """Run a program in the lockspace to its end."""
    assert shutil.which(command[0]), f"{command[0]} is not installed"
    return subprocess.run(command, cwd=lockspace, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=TIMEOUT, check=False)


# --- what every client does ------------------------------------------------

@pytest.mark.parametrize("name", CLIENTS)
def test_two_exclude_each_other_and_a_killed_one_lets_go(lockspace, start, name):
    first = start(CLIENTS[name])
    first.says("locked")
    assert [mode for mode, _ in held(lockspace, "deploy")] == ["ex"]
    impatient = start(CLIENTS[name])
    wait_for_waiters(lockspace)
    impatient.kill()
    assert impatient.process.returncode == -signal.SIGKILL
    wait_until(lambda: not waiters(lockspace))
    second = start(CLIENTS[name])
    wait_for_waiters(lockspace)
    assert second.is_silent()
    first.finish()
    second.says("locked")
    third = start(CLIENTS[name])
    wait_for_waiters(lockspace)
    second.end()
    third.says("locked")
    third.finish()
    wait_until(lambda: not locks(lockspace))


@pytest.mark.parametrize("first, second", zip(CLIENTS, [*list(CLIENTS)[9:], *list(CLIENTS)[:9]]))
def test_different_ones_exclude_each_other(lockspace, start, first, second):
    one = start(CLIENTS[first])
    one.says("locked")
    two = start(CLIENTS[second])
    wait_for_waiters(lockspace)
    assert two.is_silent()
    one.finish()
    two.says("locked")
    two.finish()


@pytest.mark.parametrize("name", IMPATIENT)
def test_the_impatient_give_up(lockspace, name):
    command, code = IMPATIENT[name]
    touch(lockspace / "deploy")
    with taken("flock", lockspace, "deploy"):
        start = time.monotonic()
        done = run(lockspace, command)
        assert done.returncode == code, done.stderr
        assert time.monotonic() - start < 10
        wait_until(lambda: not waiters(lockspace))
    assert is_free(lockspace, "deploy")


# --- flock(1) --------------------------------------------------------------

def test_flock_shares_and_excludes(lockspace, start):
    readers = [start(["flock", "-s", "deploy", "sh", "-c", "echo locked; read line"]) for _ in range(3)]
    for reader in readers:
        reader.says("locked")
    assert held(lockspace, "deploy") == [("pr", "flock")] * 3
    assert run(lockspace, ["flock", "-n", "-s", "deploy", "true"]).returncode == 0
    assert run(lockspace, ["flock", "-n", "-x", "deploy", "true"]).returncode == 1
    writer = start(["flock", "-x", "deploy", "sh", "-c", "echo locked; read line"])
    wait_for_waiters(lockspace)
    for reader in readers:
        assert writer.is_silent()
        reader.finish()
    writer.says("locked")
    assert held(lockspace, "deploy") == [("ex", "flock")]


def test_flock_unlocks_by_itself_and_on_demand(lockspace):
    touch(lockspace / "deploy")
    assert run(lockspace, ["sh", "-c", "exec 9>deploy; flock 9 && flock -u 9 && flock -n deploy true"]).returncode == 0
    assert run(lockspace, ["sh", "-c", "exec 9>deploy; flock 9 && flock -n deploy true"]).returncode == 1
    assert run(lockspace, ["sh", "-c", "exec 9>deploy; flock 9 && exec 9>&- && flock -n deploy true"]).returncode == 0
    assert locks(lockspace) == []


def test_flock_upgrades_a_shared_descriptor(lockspace):
    touch(lockspace / "deploy")
    with taken("flock", lockspace, "deploy", "pr"):
        script = "exec 9<deploy; flock -s 9 || exit 2; flock -n -x 9 && exit 3; flock -n -x deploy true"
        assert run(lockspace, ["sh", "-c", script]).returncode == 1
    assert run(lockspace, ["sh", "-c", "exec 9<deploy; flock -s 9 && flock -n -x 9"]).returncode == 0


def test_flock_creates_the_file(lockspace):
    assert run(lockspace, ["flock", "fresh", "true"]).returncode == 0
    assert os.listdir(lockspace) == ["fresh"]


def test_flock_waits_as_long_as_it_said(lockspace):
    with taken("flock", lockspace, "deploy"):
        start = time.monotonic()
        assert run(lockspace, ["flock", "-w", "1", "deploy", "true"]).returncode == 1
        assert 1 <= time.monotonic() - start < 10


def test_flock_is_ended_by_control_c(lockspace, start):
    with taken("flock", lockspace, "deploy"):
        program = start(["flock", "deploy", "true"])
        wait_for_waiters(lockspace)
        program.signal(signal.SIGINT)
        assert program.process.wait(TIMEOUT) == -signal.SIGINT
        wait_until(lambda: not waiters(lockspace))


def test_flock_says_65_without_permission(lockspace):
    touch(lockspace / "deploy")
    os.chmod(lockspace / "deploy", 0o644)
    assert run_as(NOBODY, ["flock", "-n", "-s", str(lockspace / "deploy"), "true"]).returncode == 0
    assert run_as(NOBODY, ["flock", "-n", "-x", str(lockspace / "deploy"), "true"]).returncode == 65


def test_flock_on_a_directory_stays_on_this_node(lockspace, mount):
    """It excludes on this node, as on any file system, and is no lock of the lockspace."""
    for directory in (lockspace, mount):
        with opened(directory, os.O_RDONLY | os.O_DIRECTORY):
            inner = f"flock -n {directory} true; test $? = 1 && tail -n +2 {lockspace}/.locks"
            done = run(lockspace, ["flock", str(directory), "sh", "-c", inner])
            assert (done.returncode, done.stdout) == (0, "")
    assert run(lockspace, ["flock", str(lockspace), "flock", "-n", "deploy", "true"]).returncode == 0


# --- shells and values -----------------------------------------------------

@pytest.mark.parametrize("shell", SHELLS)
def test_a_value_passes_from_shell_to_shell(lockspace, shell):
    assert run(lockspace, [*SHELLS[shell], 'echo "rev 42" >.ex/rev']).returncode == 0
    assert run(lockspace, [*SHELLS[shell], "cat .pr/rev"]).stdout == "rev 42\n"
    assert run(lockspace, [*SHELLS[shell], 'read -r line <.pr/rev; echo "$line"']).stdout == "rev 42\n"
    assert run(lockspace, [*SHELLS[shell], "( flock 9; cat <&9 ) 9<>rev"]).stdout == "rev 42\n"
    assert run(lockspace, [*SHELLS[shell], "( flock 9; echo 43 >&9 ) 9>rev; cat rev"]).returncode == 0
    assert run(lockspace, ["cat", ".pr/rev"]).stdout.startswith("43\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_exec_takes_the_lock_and_closing_drops_it(lockspace, shell):
    script = "exec 9>.ex/deploy; tail -n +2 .locks | cut -f 1-3,8; exec 9>&-; tail -n +2 .locks"
    assert run(lockspace, [*SHELLS[shell], script]).stdout == "deploy\theld\tEX\topen\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_redirection_of_one_command_lasts_as_long_as_the_command(lockspace, shell):
    script = "tail -n +2 .locks 3<.pr/a 4>.nl/b | wc -l; tail -n +2 .locks"
    assert run(lockspace, [*SHELLS[shell], script]).stdout.split() == ["2"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("under", [
    "( flock 9; {} ) 9>deploy", "( {} ) 9>.ex/deploy", "exec 9<>.ex/deploy; {}; exec 9>&-"])
def test_shells_count_without_a_miss(lockspace, directory, shell, under):
    counter = directory / "counter"
    put(counter, b"0\n")
    step = f"read -r n <{counter}; echo $((n + 1)) >{counter}"
    script = "i=0; while [ $i -lt 25 ]; do " + under.format(step) + "; i=$((i + 1)); done"
    command = [*SHELLS[shell], script]
    assert shutil.which(command[0]), f"{command[0]} is not installed"
    processes = [subprocess.Popen(command, cwd=lockspace) for _ in range(4)]
    try:
        assert [process.wait(TIMEOUT) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
    assert int(get(counter)) == 100


def test_noclobber_excludes_on_this_node(lockspace):
    script = "set -C; : >once"
    assert run(lockspace, ["bash", "-c", script]).returncode == 0
    assert run(lockspace, ["bash", "-c", script]).returncode != 0
    os.unlink(lockspace / "once")
    assert run(lockspace, ["bash", "-c", script]).returncode == 0


def test_what_is_listed_is_harmless_to_tools_that_open_everything(lockspace, directory):
    put(lockspace / ".ex" / "rev", b"rev 42\n")
    with taken("flock", lockspace, "deploy"), taken("open", lockspace, "other"):
        assert run(lockspace, ["grep", "-r", "rev 42", "."]).stdout == "./rev:rev 42\n"
        assert run(lockspace, ["find", ".", "-type", "f"]).returncode == 0
        assert run(lockspace, ["cp", "-r", ".", str(directory / "copy")]).returncode == 0
        assert run(lockspace, ["tar", "cf", str(directory / "copy.tar"), "."]).returncode == 0
        assert len(locks(lockspace)) == 2
    assert sorted(os.listdir(directory / "copy")) == ["deploy", "rev"]
    assert run(lockspace, ["sh", "-c", "rm -r -- *"]).returncode == 0
    assert os.listdir(lockspace) == []
    assert is_free(lockspace, "deploy")
