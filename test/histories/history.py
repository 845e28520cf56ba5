"""Histories: sequences of operations, as text and by chance.

A history is a list of Op. Its text has one a line, so that a failing one can be kept, read, shortened by hand and
played again:

    lock 101 alpha one EX valblk                ask for lock 101, which is one of client 1's
    convert 101 PR valblk 7631                  the value in hex, up to its last byte that is not zero
    unlock 101 valblk,ivvalblk 00
    cancel 101
    close 1                                     client 1 cancels and unlocks all that it has
    kill 1                                      … or dies
    release alpha                               the lockspace, which is then made anew; EBUSY while it is used
    release alpha force
    lock 102 alpha one EX - &                   &: the next one does not wait until all is told of this one

An operation that does not apply where it stands (a lock of an id that is in use) is skipped, so that any part of a
history is a history.
"""

import random
from dataclasses import dataclass

from model import MODES, NL, PW, QUECVT, Model

SPACES = ["alpha", "beta"]
RESOURCES = ["one", "two", "three", "%" + "x" * 63]
CLIENTS = range(1, 6)
SLOTS = range(1, 6)                             # locks of a client: 100 * client + slot
LENGTH = 500                                    # operations in one history


def client_of(id):
    return id // 100


@dataclass(frozen=True)
class Op:
    verb: str
    id: int = 0                                 # of a lock, or of a client
    space: str = ""
    resource: str = ""
    mode: int = NL
    flags: tuple = ()
    value: bytes = b""
    force: bool = False
    more: bool = False                          # goes on before all of this one is told

    def __str__(self):
        words = [self.verb]
        flags = ",".join(self.flags) or "-"
        value = self.value.rstrip(b"\0").hex() or "00"
        if self.verb == "lock":
            words += [self.id, self.space, self.resource, MODES[self.mode], flags]
        elif self.verb == "convert":
            words += [self.id, MODES[self.mode], flags, value]
        elif self.verb == "unlock":
            words += [self.id, flags, value]
        elif self.verb == "release":
            words += [self.space] + ["force"] * self.force
        else:
            words.append(self.id)
        return " ".join(map(str, words + ["&"] * self.more))


def parse(line):
    """The Op of a line of text."""
    verb, *words = line.split()
    more = words[-1] == "&"
    words = words[:-1] if more else words

    def flags(word):
        return () if word == "-" else tuple(word.split(","))

    def value(word):
        return bytes.fromhex(word).ljust(32, b"\0")

    if verb == "lock":
        return Op(verb, int(words[0]), words[1], words[2], MODES.index(words[3]), flags(words[4]), more=more)
    if verb == "convert":
        return Op(verb, int(words[0]), mode=MODES.index(words[1]), flags=flags(words[2]), value=value(words[3]),
                  more=more)
    if verb == "unlock":
        return Op(verb, int(words[0]), flags=flags(words[1]), value=value(words[2]), more=more)
    if verb == "release":
        return Op(verb, space=words[0], force=words[1:] == ["force"])
    if verb in ("cancel", "close", "kill"):
        return Op(verb, int(words[0]), more=more)
    raise ValueError(f"no such operation: {line!r}")


# --- by chance -----------------------------------------------------------------


class Generator:
    """The history of a seed. What is likely in it, crowds or loneliness, conversions or values, is by chance too."""

    def __init__(self, seed, length=LENGTH, releases=True, overlap=True):
        dice = self.dice = random.Random(seed)
        self.length = length
        self.model = Model(SPACES)
        self.spaces = SPACES[:dice.choice([1, 1, 2])]
        self.resources = RESOURCES[:dice.choice([1, 1, 2, 4])]
        self.clients = CLIENTS[:dice.randint(2, len(CLIENTS))]
        self.slots = SLOTS[:dice.randint(1, len(SLOTS))]
        self.modes = [dice.choice([0.3, 1, 3]) for _ in MODES]
        self.flags = {flag: dice.choice([0, 0.1, 0.5]) for flag in
                      ("noqueue", "quecvt", "convdeadlk", "noqueuebast", "headque", "noorder")}
        self.flags |= {"valblk": dice.choice([0.2, 0.8, 1]), "ivvalblk": dice.choice([0, 0, 0.05]),
                       "expedite": dice.choice([0.2, 0.7])}
        self.conversions = dice.choice([0.2, 0.5, 0.8])
        self.overlap = dice.choice([0, 0.3, 0.7]) if overlap else 0
        self.patience = dice.choice([0.02, 0.1, 0.4])
        self.releases = 0.003 if releases else 0
        self.ends = dice.choice([0, 0.01, 0.03])
        self.count = 0

    def __iter__(self):
        """As many operations as were asked for."""
        for _ in range(self.length):
            op = self._next()
            perform(self.model, op)
            if not op.more:
                self.model.deliver()
            yield op

    def _next(self):
        dice = self.dice
        chance = dice.random()
        if chance < self.releases:
            return Op("release", space=dice.choice(self.spaces), force=dice.random() < 0.5)
        if chance < self.releases + self.ends:
            return Op(dice.choice(["close", "kill"]), dice.choice(self.clients))
        more = dice.random() < self.overlap
        while True:
            id = 100 * dice.choice(self.clients) + dice.choice(self.slots)
            lock = self.model.locks.get(id)
            if self.model.is_busy(id):
                if dice.random() < self.patience:
                    return Op("cancel", id, more=more)
                if dice.random() < 0.01:        # EBUSY
                    return dice.choice([self._unlock, self._convert])(id, lock, more)
            elif lock is None:
                if dice.random() < 0.01:        # ESTALE
                    return dice.choice([self._unlock, self._convert])(id, lock, more)
                return self._lock(id, more)
            elif dice.random() < 0.01:
                return Op("cancel", id, more=more)      # of nothing
            elif dice.random() < self.conversions:
                return self._convert(id, lock, more)
            elif dice.random() < 0.6:
                return self._unlock(id, lock, more)

    def _mode(self):
        return self.dice.choices(range(len(MODES)), self.modes)[0]

    def _flags(self, *names):
        return [name for name in names if self.dice.random() < self.flags[name]]

    def _value(self):
        self.count += 1
        if self.dice.random() < 0.05:
            return self.dice.choice([bytes(32), b"\xff" * 32])
        return b"%d" % self.count + bytes(32 - len(b"%d" % self.count))

    def _lock(self, id, more):
        mode = self._mode()
        flags = self._flags("noqueue", "noqueuebast", "headque", "noorder", "valblk", "ivvalblk")
        if mode == NL and self._flags("expedite"):
            flags = [flag for flag in flags if flag != "noqueue"] + ["expedite"]
        if self.dice.random() < 0.01:           # EINVAL, or not
            flags.append(self.dice.choice(["quecvt", "convdeadlk", "expedite", "altpr", "convert"]))
        return Op("lock", id, self.dice.choice(self.spaces), self.dice.choice(self.resources), mode, tuple(flags),
                  more=more)

    def _convert(self, id, lock, more):
        mode = self._mode()
        flags = self._flags("noqueue", "noqueuebast", "headque", "noorder", "valblk", "ivvalblk")
        if lock and mode in QUECVT.get(lock.granted, ()):
            flags += self._flags("quecvt")
        if "noqueue" not in flags:
            flags += self._flags("convdeadlk")
        if self.dice.random() < 0.01:
            flags.append(self.dice.choice(["quecvt", "convdeadlk", "expedite", "altpr", "convert", "noqueue"]))
        return Op("convert", id, mode=mode, flags=tuple(dict.fromkeys(flags)), value=self._value(), more=more)

    def _unlock(self, id, lock, more):
        flags = self.dice.choice([(), ("valblk",), ("valblk",)])
        if flags and self._flags("ivvalblk"):
            flags = ("valblk", "ivvalblk")
        return Op("unlock", id, flags=flags, value=self._value(), more=more)


def applies(model, op):
    if op.verb == "lock":
        return not (op.id in model.locks or op.id in model.leaving)
    lock = model.locks.get(op.id)
    if lock and op.verb == "convert":
        return not lock.is_uncertain
    if lock and op.verb == "unlock":
        return op.flags or not lock.is_blind
    return True


def steps_of_close(model, op):
    """What a client does that has to end, one operation at a time, each looking at what the last one brought."""
    for id in [id for id in model.locks if client_of(id) == op.id]:
        if model.locks[id].wanted is not None:
            yield Op("cancel", id)
        lock = model.locks.get(id)
        if lock and op.verb == "kill" and lock.granted is not None and lock.granted >= PW:
            yield Op("convert", id, mode=lock.granted, flags=("valblk", "ivvalblk"), value=bytes(32))
        if lock:
            yield Op("unlock", id, flags=("valblk", "ivvalblk") if lock.is_blind else (), value=bytes(32))


def perform(model, op):
    """How the call ends. close and kill are made of others."""
    if not applies(model, op):
        return None
    if op.verb == "lock":
        return model.lock(op.id, op.space, op.resource, op.mode, op.flags)
    if op.verb == "convert":
        return model.convert(op.id, op.mode, op.flags, op.value)
    if op.verb == "unlock":
        return model.unlock(op.id, op.flags, op.value)
    if op.verb == "cancel":
        return model.cancel(op.id)
    if op.verb == "release":
        return model.release(op.space, op.force)
    model.deliver()
    for step in steps_of_close(model, op):
        perform(model, step)
        model.deliver()
    return 0
