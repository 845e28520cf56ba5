"""Histories one after the other, until there were enough operations or one has failed, which is made short."""

import contextlib
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import history
import mount
from lockspacefs_test import Daemon
from play import Disagreement, Driver, Play, Processes
from shrink import shrink


class Failure(Exception):
    """A history on which the model and what is under test disagree. @played: operations until then, with those of the
    histories before."""

    def __init__(self, arena, seed, ops, reason, played):
        self.text = "".join(f"{arena.text(op)}\n" for op in ops)
        self.seed, self.ops, self.reason, self.played = seed, ops, reason, played
        super().__init__(f"{arena}, seed {seed}: {reason}\n"
                         f"after these operations (keep them in a file for --replay):\n{self.text}")


class Arena:
    """Something that histories can be played on."""

    def play(self, ops):
        """The number of operations done, or a Disagreement, with `at` set to the number of the operation."""
        stage = self.stage()
        done = 0
        try:
            for done, op in enumerate(ops):
                stage.perform(op)
            stage.finish()
        except Disagreement as error:
            error.at = done
            self.spoil()
            raise
        self.log = getattr(stage, "log", None)
        return stage.done

    def fails(self, ops):
        """Its Disagreement or None; on a fresh stage, since others have failed on this one."""
        self.spoil()
        try:
            self.play(ops)
        except Disagreement as error:
            return error
        return None

    def shrink(self, ops, error):
        """As short as they can be made, and what is wrong with that."""
        ops = shrink(ops, self.fails)
        return ops, self.fails(ops) or error


class EngineArena(Arena):
    """An engine by itself; @twin: another, on which everything has to end the same."""

    def __init__(self, program, engine, twin=None):
        self.program, self.engine = program, engine
        self.twin = EngineArena(program, twin) if twin else None
        self.driver = None

    def __str__(self):
        return f"engine {self.engine}"

    text = staticmethod(str)
    parse = staticmethod(history.parse)

    @staticmethod
    def generate(seed):
        return list(history.Generator(seed))

    def stage(self):
        if self.driver is None:
            self.driver = Driver(self.program, self.engine)
        return Play(self.driver, strict=self.engine == "local")

    def play(self, ops):
        done = super().play(ops)
        if self.twin:
            self.twin.play(ops)
            if self.log != self.twin.log:
                step = next(i for i, (ours, theirs) in enumerate(zip(self.log, self.twin.log)) if ours != theirs)
                error = Disagreement(f"{self} says {self.log[step]}, and {self.twin} {self.twin.log[step]}")
                error.at = len(ops) - 1
                raise error
        return done

    def spoil(self):
        """Whatever state it is in, the next history has a fresh one."""
        if self.driver:
            self.driver.kill()
        self.driver = None
        if self.twin:
            self.twin.spoil()

    def close(self):
        for arena in (self, self.twin):
            if arena and arena.driver:
                arena.driver.close()
                arena.driver = None


class ProcessArena(EngineArena):
    """The kernel's DLM, used by a process for each client."""

    def __init__(self, program):
        super().__init__(program, "dlm")

    def __str__(self):
        return "processes on the DLM"

    @staticmethod
    def generate(seed):
        return list(history.Generator(seed, releases=False, overlap=False))

    def stage(self):
        if self.driver is None:
            self.driver = Processes(self.program)
        return Play(self.driver, strict=False)

    def spoil(self):
        self.close()


class MountArena(Arena):
    """A mounted lockspacefs, used by processes."""

    def __init__(self, mountpoint):
        self.mountpoint = mountpoint
        self.last = None

    def __str__(self):
        return f"mount {self.mountpoint}"

    text = staticmethod(mount.text)
    parse = staticmethod(mount.parse)

    @staticmethod
    def generate(seed):
        return list(mount.Generator(seed))

    def stage(self):
        self.close()
        self.last = mount.MountPlay(self.mountpoint)
        return self.last

    def spoil(self):
        self.close()

    def close(self):
        if self.last:
            self.last.close()
        self.last = None


@contextlib.contextmanager
def mounted(engine="local", excused=False):
    """A MountArena with a daemon of its own; @excused: it need not end well."""
    with tempfile.TemporaryDirectory(prefix="lockspacefs-") as directory:
        Path(directory).chmod(0o755)
        with Daemon(directory, engine=engine) as daemon:
            daemon.excused = excused
            yield MountArena(daemon.mountpoint)


@dataclass
class Tally:
    ops: int = 0
    histories: int = 0
    last_seed: int = 0


def run(arena, seed, ops, shrinks=True, before_each=lambda: None):
    """Histories from @seed on, with @ops operations or more together; Failure."""
    tally = Tally()
    for tally.last_seed in itertools.count(seed):
        before_each()
        history_of_seed = arena.generate(tally.last_seed)
        try:
            tally.ops += arena.play(history_of_seed)
        except Disagreement as error:
            failing = history_of_seed[:error.at + 1]
            played = tally.ops + len(failing)
            if shrinks:
                failing, error = arena.shrink(failing, error)
            raise Failure(arena, tally.last_seed, failing, error, played) from None
        tally.histories += 1
        if tally.ops >= ops:
            return tally


def replay(arena, path):
    """The history in a file; Failure."""
    with open(path, encoding="ascii") as file:
        lines = [line.split("#")[0].strip() for line in file]
    ops = [arena.parse(line) for line in lines if line]
    try:
        return Tally(arena.play(ops), 1, 0)
    except Disagreement as error:
        raise Failure(arena, "in the file", ops[:error.at + 1], error, error.at + 1) from None
