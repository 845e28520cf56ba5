"""Processes in sessions of their own, known by files, so that anybody can end them to the last one.

A state directory holds NAME.pid for each: pid and start time, since pids are used again. Guests need this:
the processes inside a User-Mode-Linux guest are processes of the host that outlive a killed kernel.

Run as a program it is the keeper: `sessions.py STATE` waits for the end of its standard input, that is for the
end of whoever holds the other end, and then ends everything in STATE.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, Optional

LETHARGIC = 10.0                                # seconds until a killed process counts as unkillable


class SessionError(Exception):
    pass


def _stat(pid: int) -> Optional[list[str]]:
    """/proc/PID/stat from the state on; None: no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields


def _start_time(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else "0"


def _read(path: Path) -> Optional[tuple[int, str]]:
    try:
        pid, start = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid), start


def spawn(state: Path, name: str, argv: list[str], log: Path, cpu: Optional[int] = None) -> subprocess.Popen:
    """Start a program as the leader of a session of its own, on one CPU if so wished.

    Its file is written before the program runs, by the new process itself: there is no moment at which a
    killed caller would leave a process that no file knows.
    """
    def become_known() -> None:
        os.setsid()
        pid = os.getpid()
        (state / f"{name}.pid").write_text(f"{pid} {_start_time(pid)}\n")
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        with contextlib.suppress(PermissionError):
            os.nice(-10)                        # who gets no CPU for the time of a token is thrown out

    with open(log, "ab") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=become_known)


def find(state: Path, name: str) -> Optional[int]:
    """The pid, if that very process still runs."""
    known = _read(state / f"{name}.pid")
    if known is None:
        return None
    pid, start = known
    return pid if _start_time(pid) == start else None


def _members(session: int) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields and int(fields[3]) == session:
                yield int(entry)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def send(state: Path, name: str, number: int) -> None:
    """Send a signal to the leader alone."""
    pid = find(state, name)
    if pid is None:
        raise SessionError(f"{name} does not run")
    _send(pid, number)


def end(state: Path, name: str) -> None:
    """Kill a session, every process of it, and forget it. Harmless when it has ended."""
    path = state / f"{name}.pid"
    known = _read(path)
    if known is None:
        path.unlink(missing_ok=True)
        return
    leader, start = known
    # As long as one member lives, the kernel gives the number to nobody else.
    # If somebody else has it, then the session was empty.
    if _start_time(leader) in (start, "0"):
        _send(leader, signal.SIGKILL)           # first of all: it traces the others
        deadline = time.monotonic() + LETHARGIC
        while members := list(_members(leader)):
            if time.monotonic() > deadline:
                raise SessionError(f"{name}: processes {members} will not die")
            for pid in members:
                _send(pid, signal.SIGKILL)
            time.sleep(0.005)
    path.unlink(missing_ok=True)


def names(state: Path) -> list[str]:
    return sorted(path.stem for path in state.glob("*.pid"))


def end_all(state: Path) -> None:
    """End every session of a state directory, and remove it.

    It is renamed first: whoever is starting a process there just now fails to make it known, and does not run.
    """
    ending = state.with_name(state.name + ".ending")
    for directory in (ending, state):           # the first: of an attempt that was interrupted
        if directory == state and state.exists():
            state.rename(ending)
        for name in names(ending):
            end(ending, name)
        shutil.rmtree(ending, ignore_errors=True)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    end_all(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
