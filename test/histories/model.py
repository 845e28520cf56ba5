"""What the DLM may do, written from its documents: dlm_lock(3), dlm_unlock(3), chapter 6 of Roy Davis, "VAXcluster
Principles", as the comments in the kernel's fs/dlm/lock.c quote and amend it (the numbers below), lvb_table.h there,
and the header include/engine.h for what an engine adds. Not from the code under test: three lists per resource, and
every question is answered by walking them.

A Model is driven by operations, one method each, which say at once how the call ends and put what comes later into
`events`. What the rules leave open stays open:
- blocking ASTs: a holder must have been told (Lock.owed) of whoever queued in its way, and may only be told what
  somebody asked for (Lock.asked); which of several requests it hears of is not said;
- the order in which different locks hear of their grants;
- VALNOTVALID on a completion that brings no value, or one that was never written: allowed while the value is lost, never
  demanded.
"""

import errno
from dataclasses import dataclass, field
from typing import Optional

NL, CR, CW, PR, PW, EX = range(6)
MODES = ["NL", "CR", "CW", "PR", "PW", "EX"]

FLAGS = {                                       # <linux/dlmconstants.h>
    "noqueue": 0x1, "convert": 0x4, "valblk": 0x8, "quecvt": 0x10, "ivvalblk": 0x20, "convdeadlk": 0x40,
    "expedite": 0x400, "noqueuebast": 0x800, "headque": 0x1000, "noorder": 0x2000, "altpr": 0x8000,
}

# With whom each mode shares a resource: the table of dlm_lock's modes, by row.
SHARES = [
    {NL, CR, CW, PR, PW, EX},
    {NL, CR, CW, PR, PW},
    {NL, CR, CW},
    {NL, CR, PR},
    {NL, CR},
    {NL},
]

# lvb_table.h. Row: granted; column: wanted. r: the value is read, w: written, -: neither.
MOVES = {
    None: "rrrrrr",
    NL: "rrrrrr",
    CR: "-rrrrr",
    CW: "--rrrr",
    PR: "---rrr",
    PW: "wwwwwr",
    EX: "wwwwww",
}

# Where QUECVT is allowed: the conversion asks for something new.
QUECVT = {NL: {CR, CW, PR, PW, EX}, CR: {CW, PR, PW, EX}, CW: {PR, PW, EX}, PR: {CW, PW, EX}, PW: {EX}, EX: set()}

EMPTY = bytes(32)


@dataclass(eq=False)
class Lock:
    id: int
    space: str
    resource: "Resource"
    wanted: Optional[int]                       # None: granted, nothing asked for
    flags: frozenset                            # of the last request
    granted: Optional[int] = None               # None: never granted
    demoted: bool = False                       # by this conversion
    had_valblk: bool = False                    # its last grant
    undelivered: bool = False                   # an operation has not been completed(), as far as its caller knows
    epoch: int = 0                              # grants so far
    asked: dict = field(default_factory=dict)   # epoch: modes that others asked for in its way, while it was granted
    owed: int = NL                              # the highest of these that it must have been told of in this epoch
    told: int = NL                              # the highest that it was told of in this epoch

    def has(self, flag):
        return flag in self.flags

    @property
    def is_uncertain(self):
        """A conversion was cancelled after a demotion that nobody has heard of: good for unlock() alone."""
        return self.demoted and self.wanted is None

    @property
    def is_blind(self):
        """A conversion with VALBLK of a lock without was refused: engine.h demands a value or IVVALBLK at its unlock."""
        return self.granted is not None and self.granted >= PW and self.has("valblk") and not self.had_valblk


@dataclass(eq=False)
class Resource:
    name: str
    granted: list = field(default_factory=list)
    converting: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    value: Optional[bytes] = None               # None: never written
    lost: bool = False


@dataclass
class Completed:
    """An event that must come."""
    id: int
    status: int
    grants: Optional["Lock"] = None             # the lock that has what it wanted; None: a refusal, or an unlock
    epoch: int = 0                              # of that grant
    value: Optional[bytes] = None               # None: none comes with it
    demoted: Optional[bool] = False             # None: may or may not be said
    lost: Optional[bool] = False


class Model:
    """All lockspaces and the locks in them. An operation returns how its call ends: 0, or a negative errno and
    nothing else happens; a tuple where several reasons not to do it apply."""

    def __init__(self, spaces, stained=None):
        self.spaces = {name: {} for name in spaces}     # resources by name
        # (space, resource) whose value was lost, and not written since: the kernel may remember it for longer than
        # the resource lives, also what @stained says of former histories
        self.stained = set() if stained is None else stained
        self.locks = {}
        self.leaving = {}                       # ids of locks that are gone, of which their callers do not know
        self.events = []                        # Completed, in order, since deliver()

    # --- operations -------------------------------------------------------------------------------------------

    def lock(self, id, space, name, mode, flags):
        if not self._may_lock(mode, flags):
            return -errno.EINVAL
        resource = self.spaces[space].setdefault(name, Resource(name))
        lock = self.locks[id] = Lock(id, space, resource, mode, frozenset(flags))
        if self._can_be_granted(lock, now=True):
            self._grant(lock)
        elif lock.has("noqueue"):
            self._refuse(lock)
            self._remove(lock)
        else:
            self._enqueue(resource.waiting, lock)
        return 0

    def convert(self, id, mode, flags, value=None):
        lock = self.locks.get(id)
        if self.is_busy(id):
            return -errno.EBUSY, -errno.EINVAL  # by flags and the mode that it has by then
        if lock is None:
            return -errno.ESTALE
        if not self._may_convert(lock, mode, flags):
            return -errno.EINVAL
        lock.flags, lock.wanted, lock.demoted = frozenset(flags), mode, False
        resource = lock.resource
        if self._can_be_granted(lock, now=True):
            self._grant(lock, value)
            self._grant_pending(resource)
        elif lock.has("noqueue"):
            self._refuse(lock)
        elif not self._is_deadlock(lock):
            resource.granted.remove(lock)
            self._enqueue(resource.converting, lock)
        elif not lock.has("convdeadlk"):
            self._complete(lock, -errno.EDEADLK)
        else:
            # "the lock's granted mode may be set to NL and DLM_SBF_DEMOTED is returned": those that it held up go
            # first, and then it may be granted after all.
            self._demote(lock)
            self._grant_conversions(resource)
            if self._can_be_granted(lock, now=True):
                self._grant(lock)
                self._grant_pending(resource)
            else:
                resource.granted.remove(lock)
                self._enqueue(resource.converting, lock)
        return 0

    def unlock(self, id, flags=(), value=None):
        lock = self.locks.get(id)
        if self.is_busy(id):
            return -errno.EBUSY
        if lock is None:
            return -errno.ESTALE
        if lock.granted >= PW:                  # engine.h: which flags count
            flags = [flag for flag in flags if lock.has("valblk")] + ["ivvalblk"] * lock.has("ivvalblk")
            self._write(lock, flags, value)
        self._complete(lock, 0)
        self._remove(lock)
        self._grant_pending(lock.resource)
        return 0

    def cancel(self, id):
        lock = self.locks.get(id)
        if lock is None or lock.wanted is None:
            return 0
        resource = lock.resource
        if lock in resource.converting:
            self._complete(lock, -errno.ECANCELED, demoted=None if lock.demoted else False)     # engine.h: NL, or not
            resource.converting.remove(lock)
            resource.granted.append(lock)
            lock.wanted = None
        elif lock in resource.waiting:
            self._complete(lock, -errno.ECANCELED)
            self._remove(lock)
        self._grant_pending(resource)
        return 0

    def kill(self, id):
        """Its process has died: a lock with PW or EX leaves a lost value, whatever its flags were."""
        lock = self.locks[id]
        if lock.granted is not None and lock.granted >= PW:
            self._lose(lock)
        self._remove(lock)
        self._grant_pending(lock.resource)

    def release(self, space, force):
        """The lockspace is gone, and made anew; -EBUSY: it was not."""
        ids = [lock.id for lock in self.locks.values() if lock.space == space]
        if ids and not force:
            return -errno.EBUSY
        for id in ids:
            del self.locks[id]
        ids += [id for id, where in self.leaving.items() if where == space]
        self.events = [event for event in self.events if event.id not in ids]
        self.leaving = {id: where for id, where in self.leaving.items() if where != space}
        self.spaces[space] = {}
        self.stained.difference_update([where for where in self.stained if where[0] == space])
        return 0

    # --- what callers know -------------------------------------------------------------------------------------

    def is_busy(self, id):
        """One operation at a time on a lock."""
        lock = self.locks.get(id)
        return lock.wanted is not None or lock.undelivered if lock else id in self.leaving

    def deliver(self):
        """All events since the last time have reached their callers."""
        events, self.events = self.events, []
        self.leaving.clear()
        for lock in self.locks.values():
            lock.undelivered = False
        return events

    # --- what may be asked for ---------------------------------------------------------------------------------

    @staticmethod
    def _may_lock(mode, flags):
        if {"quecvt", "convdeadlk", "convert", "altpr"} & set(flags) or not NL <= mode <= EX:
            return False
        return "expedite" not in flags or (mode == NL and "noqueue" not in flags)

    @staticmethod
    def _may_convert(lock, mode, flags):
        if {"expedite", "convert", "altpr"} & set(flags) or {"convdeadlk", "noqueue"} <= set(flags):
            return False
        return NL <= mode <= EX and ("quecvt" not in flags or mode in QUECVT[lock.granted])

    # --- who is granted ----------------------------------------------------------------------------------------

    @staticmethod
    def _holders(resource):
        """A converting lock goes on holding what it was granted."""
        return resource.granted + resource.converting

    def _is_compatible(self, lock):
        return all(lock.wanted in SHARES[other.granted] for other in self._holders(lock.resource) if other is not lock)

    def _can_be_granted(self, lock, now):
        """@now: it is new; else it is in its queue."""
        resource = lock.resource
        if lock.has("expedite"):                # 6-11: whatever is in the queues
            return True
        if not self._is_compatible(lock):
            return False
        if lock.granted is not None and now:    # 6-3: compatible is enough; 6-7: unless QUECVT, behind others
            return not lock.has("quecvt") or not resource.converting
        if lock.has("noorder"):                 # "Avoid the VMS rules on grant order"
            return True
        if lock.granted is not None:            # 6-3: those ahead are granted or cancelled first
            return resource.converting[0] is lock
        if now:                                 # 6-4: both queues are empty
            return not resource.converting and not resource.waiting
        return not resource.converting and resource.waiting[0] is lock          # 6-4

    @staticmethod
    def _is_deadlock(lock):
        """What it holds keeps one from being granted that is ahead of it in the queue. One that is not queued yet
        has all of them ahead."""
        converting = lock.resource.converting
        ahead = converting[:converting.index(lock)] if lock in converting else converting
        return any(other.wanted not in SHARES[lock.granted] for other in ahead)

    def _grant_conversions(self, resource):
        again = True
        while again:
            again = False
            for lock in list(resource.converting):
                if self._can_be_granted(lock, now=False):
                    self._grant(lock)
                    again = True
                elif lock.has("convdeadlk") and self._is_deadlock(lock):    # HEADQUE put another one ahead of it
                    self._demote(lock)
                    again = True

    def _grant_pending(self, resource):
        """Something was given up or has changed."""
        self._grant_conversions(resource)
        for lock in list(resource.waiting):
            if self._can_be_granted(lock, now=False):
                self._grant(lock)
        for lock in resource.converting:        # HEADQUE lets dead-locks stay, and the kernel then tells nobody
            self._stands_in_the_way(lock, resource.granted, is_owed=not self._is_deadlock(lock))
        for lock in resource.waiting:
            self._stands_in_the_way(lock, resource.granted)

    # --- moves -------------------------------------------------------------------------------------------------

    def _complete(self, lock, status, **what):
        lock.undelivered = True
        self.events.append(Completed(lock.id, status, **what))
        if status in (-errno.EAGAIN, -errno.EDEADLK):
            lock.wanted = None

    def _grant(self, lock, value=None):
        resource, move = lock.resource, MOVES[lock.granted][lock.wanted]
        event = {"demoted": lock.demoted, "lost": None if (lock.space, resource.name) in self.stained else False}
        if move == "w":
            self._write(lock, lock.flags, value)
            event["lost"] = False
        elif move == "r" and lock.has("valblk"):
            event["value"] = resource.value or EMPTY
            if resource.value is not None or not resource.lost:
                event["lost"] = resource.lost
        for queue in (resource.granted, resource.converting, resource.waiting):
            if lock in queue:
                queue.remove(lock)
        resource.granted.append(lock)
        lock.granted, lock.wanted, lock.demoted = lock.wanted, None, False
        lock.had_valblk = lock.has("valblk")
        lock.epoch += 1
        self._complete(lock, 0, grants=lock, epoch=lock.epoch, **event)
        lock.asked[lock.epoch] = {other.wanted for other in resource.converting + resource.waiting
                                  if other.wanted not in SHARES[lock.granted]}
        lock.owed = NL

    def _refuse(self, lock):
        if lock.has("noqueuebast"):             # "Send blocking ASTs even for NOQUEUE operations"
            self._stands_in_the_way(lock, self._holders(lock.resource))
        self._complete(lock, -errno.EAGAIN)

    def _enqueue(self, queue, lock):
        if lock.has("headque"):
            queue.insert(0, lock)
        else:
            queue.append(lock)
        self._stands_in_the_way(lock, lock.resource.granted)

    @staticmethod
    def _stands_in_the_way(lock, holders, is_owed=True):
        """Those who hold what it wants are told."""
        for holder in holders:
            if holder is not lock and lock.wanted not in SHARES[holder.granted]:
                holder.asked[holder.epoch].add(lock.wanted)
                holder.owed = max(holder.owed, lock.wanted if is_owed else NL)

    @staticmethod
    def _demote(lock):
        lock.granted, lock.demoted = NL, True

    def _write(self, lock, flags, value):
        if "ivvalblk" in flags:
            self._lose(lock)
        elif "valblk" in flags:
            lock.resource.value, lock.resource.lost = value, False
            self.stained.discard((lock.space, lock.resource.name))

    def _lose(self, lock):
        lock.resource.lost = True
        self.stained.add((lock.space, lock.resource.name))

    def _remove(self, lock):
        resource = lock.resource
        for queue in (resource.granted, resource.converting, resource.waiting):
            if lock in queue:
                queue.remove(lock)
        del self.locks[lock.id]
        self.leaving[lock.id] = lock.space
        lock.wanted = None
        if not (resource.granted or resource.converting or resource.waiting):
            self.spaces[lock.space].pop(resource.name, None)
