"""Histories at the mount: processes that open, lock, read, write, get signals and die, and what lockspacefs(5) and
flock(2), fcntl(2) promise them, said by the model of the DLM that is under all of it.

An operation a line, as in history.py:

    open 1.1 web one ex                         client 1 opens web/.ex/one as its file 1; waits until it is granted
    open 1.2 web two pr try                     … O_NONBLOCK
    file 1.3 web one flock                      web/one, to be locked by flock, ofd or posix
    lock 1.3 pr                                 by that way: pr, ex or un
    lock 1.3 ex try
    read 1.3
    write 1.3 76616c7565                        pwrite of these bytes at 0
    sync 1.3
    poll 1.3                                    POLLPRI: has anybody waited for what it holds?
    close 1.3
    interrupt 1                                 a signal, while it waits
    kill 1
    rmdir web                                   EBUSY while anybody has a lock
    force web                                   rmdir by force, and mkdir

After each, everything that must have happened is waited for: the answers of those who were granted, and `.locks`,
which has to be what the model says.
"""

import copy
import errno
import os
import random
import select
import signal
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from locking import raw_lock, raw_open, unlock
from lockspacefs_test import TIMEOUT, Child, locks, make_lockspace, remove_lockspace, touch, wait_for_poll
from model import EMPTY, EX, MODES, NL, PR, PW, SHARES, Model
from play import Disagreement

SPACES = ["web", "db"]
RESOURCES = ["one", "two", "three"]
CLIENTS = range(1, 5)
FILES = range(1, 4)                             # of each client
LENGTH = 300
WAYS = ["flock", "ofd", "posix"]
MODE = {mode.lower(): number for number, mode in enumerate(MODES)}
EINTR, EBUSY, ESTALE, ENOENT, ENOLCK = -errno.EINTR, -errno.EBUSY, -errno.ESTALE, -errno.ENOENT, -errno.ENOLCK
EDEADLK = -errno.EDEADLK

ANYTHING = object()                             # an answer that the rules leave open

Op = namedtuple("Op", "verb words")             # words: text


def parse(line):
    verb, *words = line.split()
    return Op(verb, tuple(words))


def text(op):
    return " ".join((op.verb, *op.words))


# --- what has to happen --------------------------------------------------------


@dataclass
class File:
    client: int
    space: str
    resource: str
    way: str                                    # open, flock, ofd, posix
    lock: int                                   # its id in the DLM's model, whether it has one or not
    value: bytes = EMPTY                        # under a lock: what it reads


class MountModel:
    def __init__(self):
        self.dlm = Model(SPACES)
        self.files = {}                         # by name, "1.1"
        self.waiting = {}                       # client: (what it does, name of the file)
        self.ids = 0
        for space in SPACES:
            self._keep(space)

    def _new_id(self):
        self.ids += 1
        return self.ids

    def _keep(self, space):
        """A value that was written lives while the file is listed."""
        for resource in RESOURCES:
            self.dlm.lock(self._new_id(), space, resource, NL, ["expedite"])
        self.dlm.deliver()

    def applies(self, op):
        client = int(op.words[0].split(".")[0]) if op.words[0][0].isdigit() else None
        if op.verb == "interrupt":
            return client in self.waiting
        if op.verb == "rmdir":                  # the files are listed and some may be open: only the refusal
            return any(True for _ in self._locks(op.words[0]))
        if client is None or op.verb == "kill":
            return True
        if client in self.waiting:
            return False
        file = self.files.get(op.words[0])
        if op.verb == "poll":                   # not of fcntl's locks: several files may have them
            return file is not None and file.way in ("open", "flock") and file.lock in self.dlm.locks
        if op.verb in ("open", "file"):         # with POSIX locks, one descriptor of a process
            return file is None and (op.words[-1] != "posix" or not any(
                (other.client, other.space, other.resource, other.way) == (client, *op.words[1:]) for other in self.files.values()))
        if op.verb == "lock":
            return file is not None and file.way != "open"
        return file is not None

    def perform(self, op, keep_shared=False):
        """{client: what it is told}; of what the player does itself: {None: …}. @keep_shared: a flock from SH to EX that
        is interrupted keeps SH; flock(2) allows that it does not."""
        more = {"keep_shared": keep_shared} if op.verb == "interrupt" else {}
        told = getattr(self, "_" + op.verb)(*op.words, **more)
        return told | self._deliver()

    # --- operations; each says what it tells its caller, unless a completion does ---

    def _open(self, name, space, resource, mode, way=None):
        id = self._new_id()
        client = int(name.split(".")[0])
        self.files[name] = File(client, space, resource, "open", id)
        self.waiting[client] = ("open", name)
        more = ["expedite"] if mode == "nl" else ["noqueue"] * (way == "try")   # nothing excludes NL: it never waits
        self.dlm.lock(id, space, resource, MODE[mode], ["valblk", *more])
        return {}

    def _file(self, name, space, resource, way):
        client = int(name.split(".")[0])
        self.files[name] = File(client, space, resource, way, self._new_id())
        return {client: 0}

    def _lock(self, name, mode, way=None):
        file = self.files[name]
        lock = self.dlm.locks.get(file.lock)
        flags = ["valblk"] + ["noqueue"] * (way == "try")
        if mode == "un":
            self._drop(file)
            return {file.client: 0}
        if lock and lock.granted == MODE[mode]:
            return {file.client: 0}
        if file.way == "posix" and way != "try" and self._closes_circle(file, MODE[mode]):
            return {file.client: EDEADLK}
        self.waiting[file.client] = ("lock", name)
        if lock is None:
            self.dlm.lock(file.lock, file.space, file.resource, MODE[mode], flags)
        elif MODE[mode] < lock.granted:
            self.dlm.convert(file.lock, MODE[mode], ["valblk"], file.value)
        else:
            self.dlm.convert(file.lock, MODE[mode], flags + ["convdeadlk"] * (file.way == "flock" and way != "try"))
        return {}

    def _value(self, file):
        """What a read sees: under a lock the value of its grant, else the last that was released."""
        if file.lock in self.dlm.locks:
            return file.value
        return self.dlm.spaces[file.space][file.resource].value or EMPTY

    def _read(self, name):
        file = self.files[name]
        return {file.client: self._value(file).rstrip(b"\0").hex()}

    def _write(self, name, value):
        file = self.files[name]
        lock = self.dlm.locks.get(file.lock)
        if lock is None or lock.granted < PW:
            return {file.client: ENOLCK}
        data = bytes.fromhex(value)
        file.value = data + file.value[len(data):]
        return {file.client: len(data)}

    def _sync(self, name):
        file = self.files[name]
        lock = self.dlm.locks.get(file.lock)
        if lock and lock.granted >= PW:
            owed, asked = lock.owed, lock.asked[lock.epoch]
            self.dlm.convert(file.lock, lock.granted, ["valblk"], file.value)
            lock.owed = owed                    # for the file nothing was converted
            lock.asked[lock.epoch] |= asked
        return {file.client: 0}

    def _poll(self, name):
        file = self.files[name]
        lock = self.dlm.locks[file.lock]
        return {file.client: select.POLLPRI if lock.owed != NL else 0 if not lock.asked[lock.epoch] else ANYTHING}

    def _close(self, name):
        file = self.files[name]
        self._let_go(name)
        return {file.client: 0}

    def _interrupt(self, client, keep_shared):
        client = int(client)
        what, name = self.waiting.pop(client)
        file = self.files[name]
        self.dlm.cancel(file.lock)
        lock = self.dlm.locks.get(file.lock)
        if lock and file.way == "flock" and not (keep_shared and lock.granted == PR):
            self._drop(file)
        if what == "open":
            del self.files[name]
        return {client: EINTR}

    def _kill(self, client):
        client = int(client)
        if self.waiting.pop(client, None):
            for file in self.files.values():
                if file.client == client:
                    self.dlm.cancel(file.lock)
        for name in [name for name, file in self.files.items() if file.client == client]:
            self._let_go(name)
        return {}

    def _rmdir(self, space):
        return {None: EBUSY}

    def _force(self, space):
        told = {}
        for name, file in list(self.files.items()):
            if file.space == space:
                what, where = self.waiting.get(file.client, (None, None))
                if where == name:
                    del self.waiting[file.client]
                    told[file.client] = ENOENT if what == "open" else ESTALE
                del self.files[name]
        self.dlm.release(space, True)
        self._keep(space)
        return told | {None: 0}

    # --- below ---

    def _drop(self, file):
        if file.lock in self.dlm.locks:
            self.dlm.locks[file.lock].undelivered = False       # the daemon has heard what its callers have not
            self.dlm.unlock(file.lock, ["valblk"], file.value)

    def _closes_circle(self, file, mode):
        """Would this client, who asks for a POSIX lock, in the end wait for himself?"""
        met, left = set(), self._in_the_way(file, mode)
        while left:
            client = left.pop()
            if client == file.client:
                return True
            what, name = self.waiting.get(client, (None, None))
            if client not in met and what == "lock" and self.files[name].way == "posix":
                left |= self._in_the_way(self.files[name], self.dlm.locks[self.files[name].lock].wanted)
            met.add(client)
        return False

    def _in_the_way(self, file, mode):
        """The clients whose POSIX locks keep it from that mode, or keep another from his who goes first."""
        lock = self.dlm.locks.get(file.lock)
        resource = self.dlm.spaces[file.space][file.resource]
        modes = {mode}
        if lock is None or lock.granted is None:        # a conversion goes before all who wait
            ahead = resource.waiting[:resource.waiting.index(lock)] if lock else resource.waiting
            modes |= {other.wanted for other in resource.converting + ahead}
        return {other.client for other, held in self._locks(file.space)
                if other.way == "posix" and other.resource == file.resource and held is not lock
                and held.granted is not None and not modes <= SHARES[held.granted]}

    def _let_go(self, name):
        """close, which drops the POSIX locks that the process has on the file, whichever descriptor it is."""
        file = self.files.pop(name)
        self._drop(file)
        for other in self.files.values():
            if (other.way == "posix" and file.way != "open"
                    and (other.client, other.space, other.resource) == (file.client, file.space, file.resource)):
                self._drop(other)

    def _deliver(self):
        told = {}
        for event in self.dlm.deliver():
            for file in self.files.values():
                if file.lock == event.id and event.value is not None:
                    file.value = event.value
            for client, (what, name) in list(self.waiting.items()):
                if name in self.files and self.files[name].lock == event.id:
                    del self.waiting[client]
                    told[client] = event.status
                    if event.status and what == "open":
                        del self.files[name]
        return told

    def _locks(self, space):
        for name, file in self.files.items():
            lock = self.dlm.locks.get(file.lock)
            if lock and file.space == space:
                yield file, lock

    def table(self, space):
        """`.locks`, as a set of (client, resource, state, mode, wanted). A demotion nobody knows of."""
        rows = set()
        for file, lock in self._locks(space):
            mode, wanted = lock.granted, lock.wanted
            if lock.demoted:
                mode = PR
            state = "held" if wanted is None else "waiting" if mode is None else "converting"
            rows.add((file.lock, file.client, file.resource, state, MODES[NL if mode is None else mode],
                      "-" if wanted is None else MODES[wanted]))
        return sorted(row[1:] for row in rows)


# --- by chance -------------------------------------------------------------------


class Generator:
    """The history of a seed; what is likely in it is by chance, too."""

    def __init__(self, seed, length=LENGTH):
        dice = self.dice = random.Random(seed)
        self.length = length
        self.model = MountModel()
        self.spaces = SPACES[:dice.choice([1, 1, 2])]
        self.resources = RESOURCES[:dice.choice([1, 1, 2, 3])]
        self.clients = CLIENTS[:dice.randint(2, len(CLIENTS))]
        self.ways = dice.choice([["open"], ["flock"], ["flock", "open"], ["ofd", "posix"], ["posix"], ["open", *WAYS]])
        # what is asked for next, by what is held
        self.modes = {None: dice.choice([["pr", "pr", "pr", "ex"], ["pr", "ex", "un"]]), PR: ["ex", "ex", "ex", "un", "pr"],
                      EX: ["pr", "pr", "un", "ex"]}
        self.tries = dice.choice([0, 0.1, 0.5])
        self.values = dice.choice([0.2, 0.5, 0.8])      # of what is done with a file
        self.signals = dice.choice([0.02, 0.2])
        self.force = dice.choice([0, 0, 0.005])
        if self.ways == ["posix"]:              # many wait for many: circles
            self.resources, self.clients = RESOURCES[:dice.choice([2, 3])], range(1, 7)
            self.tries, self.values, self.signals = 0, 0.05, 0.02

    def __iter__(self):
        done = 0
        while done < self.length:
            op = self._next()
            if op and self.model.applies(op):
                self.model.perform(op)
                done += 1
                yield op

    def _next(self):
        dice = self.dice
        chance = dice.random()
        client = dice.choice(self.clients)
        name = f"{client}.{dice.choice(FILES)}"
        if chance < self.force:
            return Op("force", (dice.choice(self.spaces),))
        if chance < self.force + 0.01:
            return Op("rmdir", (dice.choice(self.spaces),))
        if chance < self.force + 0.03:
            return Op("kill", (str(client),))
        if client in self.model.waiting:
            return Op("interrupt", (str(client),)) if dice.random() < self.signals else None
        file = self.model.files.get(name)
        if file is None:
            return self._open(name)
        if dice.random() < self.values:
            return self._use(name)
        if file.way != "open" and dice.random() < 0.8:
            return self._lock(name, file)
        return Op("close", (name,))

    def _try(self):
        return ("try",) if self.dice.random() < self.tries else ()

    def _open(self, name):
        dice = self.dice
        where = (name, dice.choice(self.spaces), dice.choice(self.resources))
        way = dice.choice(self.ways)
        if way == "open":
            return Op("open", (*where, dice.choice(MODES).lower(), *self._try()))
        return Op("file", (*where, way))

    def _lock(self, name, file):
        lock = self.model.dlm.locks.get(file.lock)
        mode = self.dice.choice(self.modes[lock.granted if lock else None])
        if mode == "un":
            return Op("lock", (name, mode))
        return Op("lock", (name, mode, *self._try()))

    def _use(self, name):
        dice = self.dice
        lock = self.model.dlm.locks.get(self.model.files[name].lock)
        can_write = lock and lock.granted >= PW
        verb = dice.choice(["read", "write", "write", "sync", "sync", "poll"] if can_write else
                           ["read", "read", "read", "read", "write", "sync", "poll"])
        return Op(verb, (name, dice.randbytes(dice.randint(1, 32)).hex()) if verb == "write" else (name,))


# --- on a mount -------------------------------------------------------------------


def be_a_client(peer, mount):
    """A process: one call after the other, and what each said."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    files = {}
    while True:
        verb, *words = peer.wait_for(timeout=None)
        peer.say(_call(mount, files, verb, words))


def _call(mount, files, verb, words):
    name = words[0]
    if verb in ("open", "file") and name in files:
        os.close(files.pop(name)[0])            # of a lockspace that was released by force
    if verb == "open":
        path = mount / words[1] / f".{words[3]}" / words[2]
        fd = raw_open(path, os.O_RDWR | (os.O_NONBLOCK if words[4:] else 0))
        if fd >= 0:
            files[name] = (fd, "open")
        return min(fd, 0)
    if verb == "file":
        files[name] = (raw_open(mount / words[1] / words[2]), words[3])
        return min(files[name][0], 0)
    fd, way = files[name]
    try:
        if verb == "lock" and words[1] == "un":
            return unlock(way, fd) or 0
        if verb == "lock":
            return -raw_lock(way, fd, words[1], wait=not words[2:])
        if verb == "read":
            return os.pread(fd, 64, 0).hex()
        if verb == "write":
            return os.pwrite(fd, bytes.fromhex(words[1]), 0)
        if verb == "poll":
            return wait_for_poll(fd, select.POLLPRI, float(words[1]))
        if verb == "sync":
            return os.fsync(fd) or 0
        return os.close(files.pop(name)[0]) or 0
    except OSError as error:
        return -error.errno


class MountPlay:
    """Plays histories on a mount, whose lockspaces and processes it brings."""

    def __init__(self, mount):
        self.mount = Path(mount)
        self.clients = {}
        self.model = MountModel()
        self.done = 0
        for space in SPACES:
            self._make(space)

    def _make(self, space):
        make_lockspace(self.mount, space, 0o777)
        for resource in RESOURCES:
            touch(self.mount / space / resource)

    def _client(self, number):
        if number not in self.clients:
            self.clients[number] = Child(be_a_client, self.mount)
        return self.clients[number]

    def perform(self, op):
        if not self.model.applies(op):
            return
        self.done += 1
        first = self._client(int(op.words[0].split(".")[0])) if op.words[0][0].isdigit() else None
        other = None
        if op.verb == "interrupt":              # an outcome that flock(2) leaves open
            other = copy.deepcopy(self.model)
        told = self.model.perform(op)
        if op.verb == "interrupt":
            first.signal(signal.SIGUSR1)
            other_told = other.perform(op, keep_shared=True)
            if self._settle([self.model, other]) is other:
                self.model, told = other, other_told
        elif op.verb == "kill":
            self.clients.pop(int(op.words[0])).kill()
        elif op.verb in ("rmdir", "force"):
            got, due = self._remove(op.words[0], op.verb == "force"), told.pop(None)
            if got != due:
                raise Disagreement(f"{text(op)}: {_say(got)}, not {_say(due)}")
        else:
            due = told.get(int(op.words[0].split(".")[0]))
            # what must come may be on its way, what must not does not come later either
            first.say((op.verb, *op.words) + (str(TIMEOUT if due == select.POLLPRI else 0),) * (op.verb == "poll"))
        self._answers(told)
        if op.verb == "force":
            self._make(op.words[0])
        self._settle([self.model])

    def finish(self):
        """All end; nothing is left."""
        done = self.done
        for number in list(self.clients):
            self.perform(Op("kill", (str(number),)))
        self.done = done

    def close(self):
        for client in self.clients.values():
            client.end()
        self.clients.clear()
        for space in SPACES:
            remove_lockspace(self.mount / space)

    def _remove(self, space, force):
        path = self.mount / space
        try:
            if force:
                remove_lockspace(path)
            else:
                path.rmdir()
        except OSError as error:
            return -error.errno
        return 0

    def _answers(self, told):
        """Those who must be told are, and nobody else."""
        for number, expected in told.items():
            child = self.clients.get(number)
            if child is None:
                continue
            if not child.has_said(TIMEOUT):
                raise Disagreement(f"client {number} hears nothing, where {_say(expected)} was due")
            got = child.wait_for()
            if got != expected and expected is not ANYTHING:
                raise Disagreement(f"client {number} was told {_say(got)}, not {_say(expected)}")
        for number, child in self.clients.items():
            if child.has_said(0):
                raise Disagreement(f"client {number} was told {_say(child.wait_for())}, and nothing was to come")

    def _table(self, space):
        numbers = {child.pid: number for number, child in self.clients.items()}
        return sorted((numbers.get(row["pid"], row["pid"]), row["resource"], row["state"],
                       "NL" if row["state"] == "waiting" else row["mode"], row["wanted"])
                      for row in locks(self.mount / space))

    def _settle(self, models):
        """Wait until `.locks` is what one of the models says: that one."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            tables = {space: self._table(space) for space in SPACES}
            for model in models:
                if all(tables[space] == model.table(space) for space in SPACES):
                    return model
            if time.monotonic() > deadline:
                expected = {space: models[0].table(space) for space in SPACES}
                raise Disagreement(f"the locks are {tables}, not {expected}")
            time.sleep(0.001)


def _say(answer):
    return errno.errorcode.get(-answer, answer) if isinstance(answer, int) and answer < 0 else repr(answer)
