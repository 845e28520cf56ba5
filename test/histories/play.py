"""Plays a history on an engine and on the model at once, and says where they disagree.

A stage runs the operations, `run(client, lines)`, and says what came of them: the lines that an engine-driver printed
before its ".".
"""

import errno
import os
import select
import subprocess
from collections import defaultdict

from history import SPACES, Op, applies, client_of, perform, steps_of_close
from model import FLAGS, MODES, NL, Model

DEMOTED, LOST = 1, 2                            # DLM_SBF_DEMOTED, DLM_SBF_VALNOTVALID


class Disagreement(Exception):
    """The engine did what the model does not allow."""


def _errno(status):
    if isinstance(status, tuple):
        return " or ".join(map(_errno, status))
    return errno.errorcode.get(-status, str(status)) if status else "ok"


def line_of(op):
    """How an engine-driver is told."""
    flags = sum(FLAGS[flag] for flag in set(op.flags))
    if op.verb == "lock":
        return f"lock {op.id} {op.space} {op.resource} {op.mode} {flags}"
    if op.verb == "convert":
        return f"convert {op.id} {op.mode} {flags} {op.value.hex()}"
    if op.verb == "unlock":
        return f"unlock {op.id} {flags} {op.value.hex() or '-'}"
    return f"cancel {op.id}"


class Play:
    """@strict: blocking() comes once for each higher mode, as engine.h has it; the kernel repeats itself where CW and
    PR wait together."""

    def __init__(self, stage, strict):
        self.stage = stage
        self.strict = strict
        self.model = Model(SPACES, stage.stained)
        self.current = {}                       # by lock id: (lock, epoch, told) as its caller knows it
        self.log = []                           # for each step what was told, without what is left open
        self.client = None                      # whose the last operation was
        self.lines, self.results = [], []       # not sent yet
        self.done = 0                           # operations

    def perform(self, op):
        if not applies(self.model, op):
            return
        self.done += 1
        if op.verb == "cancel" and op.id in {earlier.id for earlier, status in self.results}:
            self._settle()                      # else it may cross on its way what it is to cancel, or not
        if op.verb in ("close", "kill"):
            self._settle()
            if op.verb == "kill" and self.stage.can_kill:
                self._kill(op.id)
            else:
                for step in steps_of_close(self.model, op):
                    self._tell(step)
                    self._settle()
        elif op.verb == "release":
            self._settle()
            self._release(op)
        else:
            self._tell(op)
            if not op.more:
                self._settle()

    def finish(self):
        """All clients close; the lockspaces are free then, and nobody has heard anything else."""
        done = self.done
        for client in sorted({client_of(id) for id in self.model.locks}):
            self.perform(Op("close", client))
        self._settle()
        self.done = done

    def _tell(self, op):
        self.client = client_of(op.id)
        self.lines.append(line_of(op))
        self.results.append((op, perform(self.model, op)))

    def _settle(self):
        """Send what was not sent, and see what it brought."""
        if self.lines:
            self._check(self.stage.run(self.client, self.lines))

    def _kill(self, client):
        for id in [id for id in self.model.locks if client_of(id) == client]:
            self.model.kill(id)
            self.current.pop(id, None)
        self._check(self.stage.kill(client))

    def _release(self, op):
        status = self.model.release(op.space, op.force)
        self.results.append((op, status))
        self.lines.append(f"release {op.space} {int(op.force)}")
        if status == 0:
            self.results.append((Op("create"), 0))
            self.lines.append(f"create {op.space}")
        self._settle()

    # --- what came against what had to come -----------------------------------

    def _check(self, said):
        expected = self.model.deliver()
        results, self.results, self.lines = self.results, [], []
        owed = defaultdict(list)
        for event in expected:
            owed[event.id].append(event)
        seen = []
        statuses, agreed = [], []
        for line in said:
            kind, *words = line.split()
            if kind == "r":
                statuses.append(int(words[0]))
            elif kind == "a":
                seen.append(self._completed(owed, line, *words))
            else:
                self._blocking(line, int(words[0]), int(words[1]))
        for (op, status), got in zip(results, statuses, strict=True):
            if got not in (status if isinstance(status, tuple) else (status,)):
                raise Disagreement(f"{op}: the call said {_errno(got)}, not {_errno(status)}")
            agreed.append(status)               # where several are allowed, others may say another
        missing = [event for events in owed.values() for event in events]
        if missing:
            raise Disagreement("; ".join(f"lock {event.id} was not told {_errno(event.status)}" for event in missing))
        self._check_told()
        self.log.append((agreed, sorted(seen)))

    def _completed(self, owed, line, id, status, flags, value):
        id, status, flags = int(id), int(status), int(flags)
        value = None if value == "-" else bytes.fromhex(value)
        if not owed[id]:
            raise Disagreement(f"lock {id} was told {_errno(status)}, and nothing was to come")
        event = owed[id].pop(0)
        wrong = []
        if status != event.status:
            wrong.append(f"it was told {_errno(status)}, not {_errno(event.status)}")
        if value != event.value:
            wrong.append(f"it has the value {value}, not {event.value}")
        if event.demoted is not None and bool(flags & DEMOTED) != event.demoted:
            wrong.append("it was told of a demotion" if flags & DEMOTED else "it was not told of its demotion")
        if event.lost is not None and bool(flags & LOST) != event.lost:
            wrong.append("its value is said to be lost" if flags & LOST else "its value is not said to be lost")
        if wrong:
            raise Disagreement(f"lock {id}: {', '.join(wrong)}")
        if event.grants:
            self.current[id] = [event.grants, event.epoch, NL]
        elif id not in self.model.locks:
            self.current.pop(id, None)
        return (id, status, value or b"", bool(flags & DEMOTED) and event.demoted is not None,
                bool(flags & LOST) and event.lost is not None)

    def _blocking(self, line, id, mode):
        if id not in self.current:
            raise Disagreement(f"lock {id} was told that it blocks {MODES[mode]}, and it holds nothing")
        current = self.current[id]
        lock, epoch, told = current
        if mode not in lock.asked[epoch]:
            raise Disagreement(f"lock {id} was told that it blocks {MODES[mode]}, which nobody asked for")
        if self.strict and mode <= told:
            raise Disagreement(f"lock {id} was told that it blocks {MODES[mode]} after {MODES[told]}")
        current[2] = max(told, mode)

    def _check_told(self):
        for id, lock in self.model.locks.items():
            if lock.owed != NL and id in self.current and lock in lock.resource.granted:
                told = self.current[id][2]
                if told < lock.owed:
                    raise Disagreement(f"lock {id} was not told that it blocks {MODES[lock.owed]}, only {MODES[told]}")


# --- stages ----------------------------------------------------------------------


class Driver:
    """An engine-driver. All clients are one process, and those that die do so by what they would leave behind."""

    can_kill = False
    timeout = 30                                # seconds until an answer counts as lost

    def __init__(self, program, engine, makes_spaces=True):
        self.said = b""
        self.stained = set()                    # see model.py
        self.process = subprocess.Popen([str(program), engine], bufsize=0,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.poller = select.poll()
        self.poller.register(self.process.stdout, select.POLLIN)
        for space in SPACES:
            self.make(space, makes_spaces)

    def make(self, space, makes):
        """A lockspace with nothing in it; one that a driver which was killed has left goes first."""
        said = self.run(None, [f"create {space}" if makes else f"await {space}"])
        if said == [f"r {-errno.EEXIST}"]:
            said = self.run(None, [f"await {space}", f"release {space} 1", f"create {space}"])[2:]
        if said != ["r 0"]:
            raise RuntimeError(f"there is no lockspace {space}: {said}")

    def run(self, client, lines):
        os.write(self.process.stdin.fileno(), ("\n".join(lines) + "\n.\n").encode())
        while not (self.said.endswith(b"\n.\n") or self.said == b".\n"):
            if not self.poller.poll(1000 * self.timeout):
                raise Disagreement(f"nothing comes of {lines}")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise Disagreement(f"the engine ended with status {self.process.wait()} upon {lines}")
            self.said += more
        said, self.said = self.said, b""
        return said.decode().splitlines()[:-1]

    def close(self):
        """Every lockspace can be released."""
        said = self.run(None, [f"release {space} 0" for space in SPACES])
        self.process.stdin.close()
        status = self.process.wait(self.timeout)
        self.process.stdout.close()
        if said != ["r 0"] * len(SPACES) or status != 0:
            raise Disagreement(f"the releases said {said}, and the engine ended with status {status}")

    def kill(self):
        self.process.kill()
        self.process.communicate()


class Processes:
    """An engine-driver for each client, on the kernel's DLM, with real deaths. The first is nobody's: it makes and
    releases the lockspaces, and hears nothing."""

    can_kill = True

    def __init__(self, program):
        self.program = program
        self.host = Driver(program, "dlm")
        self.stained = set()
        self.drivers = {}

    def _driver(self, client):
        if client not in self.drivers:
            self.drivers[client] = Driver(self.program, "dlm", makes_spaces=False)
        return self.drivers[client]

    def run(self, client, lines):
        return self._driver(client).run(client, lines) + self._others(client)

    def _others(self, client):
        """What the others were told: it lies there when the one who did it has got his answer."""
        return [line for other, driver in self.drivers.items() if other != client
                for line in driver.run(other, ["sync"])]

    def kill(self, client):
        if client in self.drivers:
            self.drivers.pop(client).kill()
        return self._others(client)

    def close(self):
        for driver in self.drivers.values():
            driver.kill()
        self.host.close()
