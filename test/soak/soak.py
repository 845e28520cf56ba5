"""A run: lives of clients and observers in the mounts of a place, faults among them, and what came of it all.

One loop on this machine starts lives, reads what they say, and lets faults come in bursts with calm between, so that there
are times to judge. A life is a process; one that a fault ends is doomed from a moment on, and what it says or leaves behind
after that excuses what others saw. One that ends by itself is a failure.
"""

import json
import math
import random
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

import faults
import verdict
import witness
from client import RESOURCES

HERE = Path(__file__).resolve().parent
CLIENTS = 8
TICK = 0.1
SETTLE = 2                                      # seconds after a burst that are not judged
MORE = 120                                      # for samples that are still missing
START = 300                                     # for all to work: a guest on a busy machine is slow
END = 180                                       # for a client to end when it is told to
LOOK = 20                                       # to see where one hangs


class Failure(Exception):
    """It makes no sense to go on."""


class Life:
    def __init__(self, slot, number, mount, program):
        self.slot = slot
        self.name = f"{slot}-{number}"
        self.mount = mount
        self.program = program
        self.doomed = None                      # since when, if a fault ends it
        self.ended = None
        self.heard = time.time()
        self.begun = False
        self.said_end = False
        self.ops = Counter()
        self.errors = []                        # (time, {"KIND ERRNO": N}): what came until then
        self.wrongs, self.samples = [], []
        self._unread = ""

    def doom(self, since):
        self.doomed = since if self.doomed is None else min(self.doomed, since)

    def listen(self):
        *lines, self._unread = (self._unread + self.program.output.more()).split("\n")
        for line in lines:
            said = json.loads(line)
            self.heard = time.time()
            if "report" in said:
                self.ops.update(said["ops"])
                self.errors.append((said["report"], said["errors"]))
            elif "wrong" in said:
                self.wrongs.append({**said, "life": self.name})
            elif "sample" in said:
                self.samples.append(said)
            elif "begin" in said:
                self.begun = True
            else:
                self.said_end = True


class Run:
    def __init__(self, place, seconds, seed, kinds=None, log=print):
        self.place = place
        self.seconds = seconds
        self.seed = seed
        self.interval = min(max(seconds / 60, 0.2), 5 if place.engine == "local" else 2)
        self.log = log
        self.lives = []                         # all that there were
        self.losses = []                        # (begin, end) of when a value may be lost
        self.disturbances = []                  # (begin, end)
        self.failures = []
        self._dice = random.Random(f"run {seed}")
        self._running = {}                      # slot: life
        self._slots = {}                        # slot: mount
        self._calm = min(max(seconds / 10, 2), 30)
        self.faults = faults.faults_for(self, kinds)

    # --- for faults.py ---

    def clients_on(self, mount):
        return [life for slot, life in self._running.items()
                if life.mount is mount and not slot.startswith("o") and life.program.status() is None]

    def doom_on(self, number, since):
        """All lives there, also those that have ended since."""
        for life in self.lives:
            if life.mount.number == number and (life.ended is None or life.ended >= since):
                life.doom(since)

    def lose_since(self, since):
        """Values, until the burst is over."""
        self.losses.append((since, math.inf))

    def end_lives_on(self, mount):
        """Their daemon is dead."""
        for life in self._on(mount):
            life.program.signal(signal.SIGKILL)
        for life in self._on(mount):
            life.program.wait()
            self._bury(life)

    def bury_lives_on(self, mount):
        """Their node is dead."""
        for life in self._on(mount):
            self._bury(life)

    def _on(self, mount):
        return [life for life in self._running.values() if life.mount is mount]

    # --- lives ---

    def _start(self, slot, mount):
        number = sum(life.slot == slot for life in self.lives)
        name = f"{slot}-{number}"
        words = ["--mount", mount.path, "--life", name, "--interval", self.interval, "--pause", self.place.pause]
        if slot.startswith("o"):
            words = [HERE / "observer.py", *words, "--daemon", mount.daemon_pid]
        else:
            words = [HERE / "client.py", *words, "--witness", self.place.witness_at,
                     "--seed", f"{self.seed} {name}", "--rare", self.place.rare]
        life = Life(slot, number, mount, mount.start([str(word) for word in words], name))
        self.lives.append(life)
        self._running[slot] = life

    def _bury(self, life):
        life.listen()
        life.ended = time.time()
        del self._running[life.slot]
        witness.forget(self.place.witness, life.name)
        life.program.forget()

    def tend(self):
        """Hear them all; who has died is followed by the next life, where there is a mount."""
        for life in list(self._running.values()):
            life.listen()
            if life.program.status() is not None:
                if life.doomed is None and life.mount.is_whole:
                    raise Failure(f"{life.name} ended by itself with status {life.program.status()}: {life.wrongs[-1:]}\n"
                                  f"{life.program.errors()}")
                self._bury(life)
        for slot, mount in self._slots.items():
            if slot not in self._running and mount.is_whole:
                self._start(slot, mount)

    def _wait_until_all_work(self):
        deadline = time.time() + START
        while len(self._running) < len(self._slots) or not all(life.begun for life in self._running.values()):
            if time.time() > deadline:
                missing = self._slots.keys() - {slot for slot, life in self._running.items() if life.begun}
                raise Failure(f"not all clients work after {START} s: {', '.join(sorted(missing))}")
            self._watch(TICK)

    def _watch(self, seconds):
        until = time.time() + seconds
        while time.time() < until:
            self.tend()
            time.sleep(TICK)

    def _nobody_is_stuck(self):
        heard = {life.name: life.heard for life in self._running.values()}
        if silent := verdict.silence(heard, self.disturbances, time.time()):
            looks = [self._look_at(life) for life in self._running.values() if life.name in silent]
            raise Failure("\n".join([*silent.values(), *looks]))

    def _look_at(self, life):
        """For whoever wants to know why it hangs."""
        look = life.mount.start([str(HERE.parent / "look.py"), str(life.mount.path), str(life.program.pid)], f"look-{life.name}")
        try:
            look.wait(LOOK)
        except Exception as error:              # the mount hangs, too
            return f"{life.name}: {error}\n{look.output.all()}"
        return f"{life.name}:\n{look.output.all()}{look.errors()}"

    # --- the run ---

    def go(self):
        """Everything but the judgement."""
        witness.make(self.place.witness, RESOURCES)
        self.place.up()
        self.log(f"  {len(self.place.mounts)} mount(s) are up")
        mounts = self.place.mounts
        self._slots = {str(i): mounts[i % len(mounts)] for i in range(CLIENTS)}
        self._slots.update({f"o{mount.number}": mount for mount in mounts})
        try:
            self._work()
            self._finish()
        except Failure as failure:
            self.failures.append(str(failure))
        except Exception:                       # a guest or a program that does not answer: what was seen so far is still told
            self.failures.append(f"the run broke off: {traceback.format_exc()}")

    def _work(self):
        self._wait_until_all_work()
        started = time.time()
        next_burst = started + self._calm
        while (now := time.time()) < started + self.seconds:
            self.tend()
            self._nobody_is_stuck()
            if next_burst <= now < started + self.seconds - self._calm / 2:
                self._burst()
                next_burst = time.time() + self._calm
            time.sleep(TICK)
        self._go_on_until_there_is_enough()

    def _go_on_until_there_is_enough(self):
        """On a busy machine a short run may have too few samples to judge: it lasts longer, without faults."""
        deadline = time.time() + MORE
        while time.time() < deadline and not any(map(verdict.is_enough, self.undisturbed().values())):
            self._watch(self.interval)

    def _burst(self):
        """Some faults, one upon the other, and all made good again."""
        begin = time.time()
        for _ in range(self._dice.choice([1, 1, 2, 3, 4])):
            self.log(f"  {time.strftime('%H:%M:%S')} {self.faults.step()}")
            self._watch(0.2 + self._dice.random())
        self.faults.heal_all()
        self._wait_until_all_work()
        end = time.time() + SETTLE
        self.losses = [(since, min(until, end)) for since, until in self.losses]
        if self.place.is_disturbed_by_faults:
            self.disturbances.append((begin, end))

    def _finish(self):
        """All end, nothing is left, the daemons end well."""
        for life in self._running.values():
            life.program.signal(signal.SIGTERM)
        for life in list(self._running.values()):
            life.program.wait(END)
            self._bury(life)
            if life.program.status() != 0 or not life.said_end:
                self.failures.append(f"{life.name} ended with status {life.program.status()}: {life.wrongs[-1:]}\n"
                                     f"{life.program.errors()}")
        self._close("check")
        self._close("remove")
        for mount in self.place.mounts:
            self.failures += mount.unmount()

    def _close(self, what):
        """On all mounts at once."""
        closing = []
        for mount in self.place.mounts:
            words = [HERE / "closing.py", "--mount", mount.path, "--life", f"c{mount.number}-0", "--interval", "1", "--pause", "0",
                     "--witness", self.place.witness_at, "--engine", self.place.engine, what]
            program = mount.start([str(word) for word in words], f"{what}-{mount.number}")
            closing.append(Life(f"c{mount.number}", what, mount, program))
        for life in closing:
            life.program.wait(END)
            life.listen()
            if not life.said_end:
                self.failures.append(f"closing of mount {life.mount.number}, {what}: {life.program.errors()}")
        self.lives += closing

    # --- what came of it ---

    def undisturbed(self):
        """{observer: its samples that count}: of one daemon each."""
        return {life.name: verdict.undisturbed(life.samples, self.disturbances)
                for life in self.lives if life.slot.startswith("o")}

    def errors(self):
        return sum((Counter(counts) for life in self.lives for _, counts in life.errors), Counter())

    def judge(self):
        """Sentences; none: all is well."""
        dead = {life.name: life.doomed for life in self.lives if life.doomed is not None}
        reports = {life.name: life.errors for life in self.lives}
        events = [event for life in self.lives for event in life.wrongs]
        return (self.failures + verdict.wrongs(events, dead, self.losses) + verdict.errors(self.place.engine, reports, dead)
                + verdict.daemons(self.place.engine, self.undisturbed()))
