"""Was it right? Judges a History by what DESIGN promises of exclusion, of who waits, and of values. README.md says it in words.

    verdict = judge(history)
    verdict.violations          each a text with the records that prove it
    verdict.figures

All reasoning is by intervals that can only be too short: a section begins when its process says so, though the lock
was granted before; and it lasts until just before its end, or before what is known to have ended it.
"""

import bisect
import errno
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Iterator, NamedTuple, Optional

from locking import COMPATIBLE
from records import Blow, History, Section, View

SURE = {"pr", "pw", "ex"}                       # a lock that excludes writers, so that what is read under it is certain
HANDED_ON = {"cw", "pr", "pw", "ex"}            # what a new master finds under these it takes for valid

GRACE = 1                                       # seconds: for the watchers to be told, and for an unlock to travel
AFTERMATH = 15                                  # seconds: in which a blow may still cost a value
TAKEN_BACK = 5                                  # seconds: who is in the cluster again for so long is not about to be thrown out
PATIENCE = 20                                   # seconds: after which who still waits, with all well, starves
OVERTAKEN = 20                                  # by so many that had asked a second later, with all well: starves too

FATAL = {"node-kill", "quorum", "thrown-out", "controld-kill"}          # the others go on without the node at once …
SLOW = {"node-hang", "node-return", "link-cut", "link-split"}           # … and here when they have noticed
COSTLY = FATAL | SLOW | {"daemon-kill", "force"}                       # these may cost a value
BEYOND = {"daemon-kill", "force"}                                      # take the locks of processes that live on
SMALL = {"client-kill", "client-freeze", "boot"}                        # of these nobody else notices anything

ANSWERS = {                                     # what calls may say that ask for a lock, and the blows that it is for
    errno.ENOTCONN: {"daemon-kill"},
    errno.ECONNABORTED: {"daemon-kill"},
    errno.ESTALE: {"force"},
    errno.ENOENT: {"daemon-kill", "force", "boot"},                    # the lockspace has not been made again
}


@dataclass
class Verdict:
    violations: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Outage(NamedTuple):
    """From when on the cluster may have gone on without a node, until its next start."""
    tick: int
    noticed: Optional[int]                      # the node itself knew


class Fork(NamedTuple):
    """A side went on without a node that never noticed, and then met it: one of the two had to go, and it was that side."""
    begin: int
    side: frozenset
    end: int                                    # they met
    gone: int                                   # the last of that side was out


def judge(history: History) -> Verdict:
    return Judge(history).judge()


class Judge:
    def __init__(self, history: History):
        self.history = history
        self.verdict = Verdict()
        self.grace = GRACE * history.second
        self.sections = sorted((s for s in history.sections if s.begin is not None), key=lambda s: s.begin)
        self.served: dict[tuple[int, str], list[Section]] = defaultdict(list)   # of each node and lockspace, as they were asked for
        self.writing: dict[tuple[int, str], list[Section]] = defaultdict(list)  # or wanting to, of each node and resource
        for section in sorted(history.sections, key=lambda s: s.asked):
            if section.begin is not None:
                self.served[section.node, section.lockspace].append(section)
            if section.mode in ("pw", "ex"):
                self.writing[section.node, section.resource].append(section)
        self.misled: set[int] = set()           # those in doubt who were not alone, by id()
        self.boots: dict[int, list[int]] = defaultdict(list)
        self.blows: dict[int, list[Blow]] = defaultdict(list)           # of each node
        for blow in sorted(history.blows, key=lambda blow: blow.before):
            if blow.kind == "boot":
                self.boots[blow.node].append(blow.before)
            self.blows[blow.node].append(blow)
        readmissions = list(self._readmissions())
        for node, tick in readmissions:
            bisect.insort(self.boots[node], tick)
        self.outages = self._find_outages()
        self.forks = [fork for node, tick in readmissions for fork in self._forks(node, tick)]
        self.losses = self._find_losses()

    def judge(self) -> Verdict:
        figures = self.verdict.figures
        figures["granted in doubt"] = sum(map(self.is_doubtful, self.sections))
        figures["sections"] = len(self.sections) - figures["granted in doubt"]
        for resource in sorted({s.resource for s in self.sections}):
            sections = [s for s in self.sections if s.resource == resource]
            self._check_exclusion(sections)
            self._check_overtaking(sections)
            Register(self).check(sections)
        self._check_quorum()
        self._check_telling()
        self._check_answers()
        self._check_starvation()
        figures["misled"] = len(self.misled)
        return self.verdict

    def accuse(self, what: str, *records: object) -> None:
        self.verdict.violations.append("\n    ".join([what, *map(str, records)]))

    # --- who was out of the cluster, and from when -------------------------

    def boot_of(self, node: int, tick: int) -> int:
        """The number of the node's start before then."""
        return bisect.bisect_right(self.boots[node], tick)

    def _find_outages(self) -> dict[tuple[int, int], Outage]:
        starts: dict[tuple[int, int], int] = {}
        for node, blows in self.blows.items():
            for blow in blows:
                if blow.kind in FATAL and blow.phase == "begins":
                    key = node, self.boot_of(node, blow.before)
                    starts[key] = min(blow.before, starts.get(key, blow.before))
        for node, tick in self._evictions():
            key = node, self.boot_of(node, tick)
            start = max([tick - self.grace, *(b.before for b in self.blows[node] if b.kind in SLOW and b.phase == "begins" and
                                              b.before <= tick and self.boot_of(node, b.before) == key[1])])
            starts[key] = min(start, starts.get(key, start))
        return {key: Outage(start, self._noticed(*key, start)) for key, start in starts.items()}

    def _evictions(self) -> Iterator[tuple[int, int]]:
        """(node, tick) where a node that others had seen is missing in a cluster of theirs that may go on."""
        seen: dict[tuple[int, int], set[int]] = defaultdict(set)        # by each watcher
        for view in sorted(self.history.views, key=lambda view: view.tick):
            known = seen[view.node, self.boot_of(view.node, view.tick)]
            if view.is_quorate:
                for node in sorted(known - view.members):
                    yield node, view.tick
                known &= view.members
            known |= view.members

    def _readmissions(self) -> Iterator[tuple[int, int]]:
        """(node, tick) where the others have taken back a node that they had gone on without, for good: it counts as a start."""
        evicted = list(self._evictions())
        mine: dict[int, list[View]] = defaultdict(list)
        for view in sorted(self.history.views, key=lambda view: view.tick):
            mine[view.node].append(view)
        for node, views in mine.items():
            for view, after in zip(views[1:], [*views[2:], None]):
                lasts = after is None or after.is_quorate or after.tick > view.tick + TAKEN_BACK * self.history.second
                boot = self.boot_of(node, view.tick)
                if view.is_quorate and lasts and any(who == node and tick < view.tick and self.boot_of(node, tick) == boot
                                                     for who, tick in evicted):
                    evicted = [(who, tick) for who, tick in evicted if who != node or tick > view.tick]
                    yield node, view.tick

    def _noticed(self, node: int, boot: int, start: int) -> Optional[int]:
        killed = [b.after for b in self.blows[node] if b.kind in FATAL and b.phase == "begins" and
                  self.boot_of(node, b.before) == boot]
        told = [v.tick for v in self.history.views if v.node == node and not v.is_quorate and v.tick >= start and
                self.boot_of(node, v.tick) == boot]
        return min([*killed, *told], default=None)

    def _forks(self, node: int, end: int) -> Iterator[Fork]:
        """That ended when the others took back the node."""
        outage = self.outages.get((node, self.boot_of(node, end) - 1))
        if outage is None or outage.noticed is not None:
            return
        side = frozenset().union(*(view.members for view in self.history.views if view.is_quorate and
                                   outage.tick <= view.tick < end and node not in view.members))
        gone = [self._gone(other, end) for other in side]
        if gone and None not in gone:
            yield Fork(outage.tick, side, end, max(gone))

    def _gone(self, node: int, end: int) -> Optional[int]:
        """When was the node out, with all it knew, that was up at @end?"""
        boot = self.boot_of(node, end)
        ticks = [view.tick for view in self.history.views if view.node == node and not view.members and
                 self.boot_of(node, view.tick) == boot]
        ticks += [blow.before for blow in self.blows[node] if blow.kind == "boot" and blow.before > end]
        if outage := self.outages.get((node, boot)):
            ticks.append(outage.tick)
        return min(ticks, default=None)

    def _find_losses(self) -> list[Blow]:
        """Each time that a node's locks were lost, once, and with them the values that it managed."""
        losses = [Blow("outage", "begins", node, "", outage.tick, outage.tick + self.grace)
                  for (node, _), outage in self.outages.items()]
        losses += [blow for blows in self.blows.values() for blow in blows
                   if blow.kind in COSTLY - FATAL - SLOW and blow.phase == "begins"]
        return sorted(losses, key=lambda loss: loss.before)

    def outage(self, section: Section) -> Optional[Outage]:
        return self.outages.get((section.node, self.boot_of(section.node, section.asked)))

    def is_doubtful(self, section: Section) -> bool:
        """Granted on a node that may have been given up already."""
        outage = self.outage(section)
        return outage is not None and section.begin >= outage.tick

    # --- how long a lock excluded ------------------------------------------

    def ended_by(self, blow: Blow, section: Section) -> bool:
        """Does it lose its lock by that? If it asked before, then also when it began after: its process was slow."""
        if blow.phase != "begins" or blow.node != section.node or blow.after < section.asked:
            return False
        return (blow.kind == "client-kill" and blow.target == section.client or blow.kind == "daemon-kill" or
                blow.kind == "force" and blow.target == section.lockspace)

    def until(self, section: Section) -> int:
        ends = [blow.before for blow in self.blows[section.node] if self.ended_by(blow, section)]
        if self.is_doubtful(section):           # it may go on until its node ends
            ends += [blow.after for blow in self.blows[section.node] if blow.kind in FATAL and blow.after > section.begin]
            ends += [tick for tick in self.boots[section.node] if tick > section.begin]
        elif outage := self.outage(section):
            ends.append(outage.tick)
        for tick in (section.end, self.history.stopped):
            if tick is not None:
                ends.append(tick)
        return min(ends)

    def is_costly(self, blow: Blow) -> bool:
        """May it cost a value? Where it is mended with the end of what is left of a node, then too."""
        return blow.kind in COSTLY and (blow.phase == "begins" or blow.kind in SLOW or blow.kind == "controld-kill")

    def may_write_at(self, blow: Blow, resource: str) -> bool:
        """Has somebody on its node PW or EX when it strikes, or asks for it? Or has let go, and the DLM does not know yet."""
        return any(section.asked <= blow.after and
                   min((tick for tick in (section.left, section.refused_at) if tick is not None), default=blow.after) >=
                   blow.before - self.grace for section in self.writing[blow.node, resource])

    def may_survive(self, section: Section, loss: Blow) -> bool:
        """The kernel may have granted it by then, whenever its process was told, and it stays."""
        outage = self.outage(section)
        over = section.refused_at if section.left is None else section.left
        return (section.asked <= loss.after and (over is None or over >= loss.before) and
                (outage is None or outage.tick > loss.after) and
                not any(self.ended_by(blow, section) and blow.before <= loss.after for blow in self.blows[section.node]))

    # --- exclusion ---------------------------------------------------------

    def _check_exclusion(self, sections: list[Section]) -> None:
        """Of one resource. Those in doubt prove nothing; how often somebody was misled is counted."""
        held: list[tuple[int, Section]] = []
        last: Optional[Section] = None
        for section in sections:
            end = self.until(section)
            if end < section.begin:             # it was over when its process said that it began
                continue
            held = [(until, other) for until, other in held if until > section.begin + self.history.error]
            for until, other in held:
                if section.mode in COMPATIBLE[other.mode]:
                    continue
                doubtful = {id(one) for one in (section, other) if self.is_doubtful(one)}
                self.misled |= doubtful
                if not doubtful:
                    self.accuse(f"two at once, for {(until - section.begin) / self.history.second * 1e3:.3f} ms at least",
                                other, section)
            held.append((end, section))
            if self.is_doubtful(section):
                continue
            if last and last.node != section.node and section.mode not in COMPATIBLE[last.mode]:
                self.verdict.figures["hand-overs"] += 1
            last = section

    def _check_quorum(self) -> None:
        """A node that knows that it is alone gets nothing that it asked for since, where it had not been alone."""
        alone: dict[int, list[list]] = defaultdict(list)        # of each node: from, to, and whom it lost
        members: dict[int, frozenset] = defaultdict(lambda: frozenset(self.blows))
        for view in sorted(self.history.views, key=lambda view: view.tick):
            periods = alone[view.node]
            if view.is_quorate:
                if periods and periods[-1][1] is None:
                    periods[-1][1] = view.tick
            elif not periods or periods[-1][1] is not None:
                periods.append([view.tick, None, members[view.node] - view.members])
            members[view.node] = view.members
        for section in self.sections:
            outage = self.outage(section)
            if outage and outage.noticed is not None and section.asked > outage.noticed + self.grace:
                self.accuse("granted on a node that had been thrown out, and knew", section, outage)
            for begin, end, lost in alone[section.node]:
                if section.asked > begin + self.grace and (end is None or section.begin + self.grace < end) and \
                        self.boot_of(section.node, begin) == self.boot_of(section.node, section.asked) and \
                        any(self._is_member(node, section.lockspace, begin) for node in lost - {section.node}):
                    self.accuse(f"granted without quorum, which was lost at {begin} and came back at {end}", section)

    def _is_member(self, node: int, lockspace: str, tick: int) -> bool:
        """Certainly: the node has had locks in that lockspace since its start, which was not forced away since."""
        joined = [section.begin for section in self.sections if section.node == node and section.begin < tick and
                  section.lockspace == lockspace and self.boot_of(node, section.begin) == self.boot_of(node, tick)]
        forced = [blow for blow in self.blows[node] if blow.kind == "force" and blow.target == lockspace and blow.before < tick]
        return bool(joined) and not any(max(joined) < blow.after for blow in forced)

    def _check_telling(self) -> None:
        """Who still looks after his lock when its daemon has been killed, or its lockspace forced away, must find that out."""
        for section in self.sections:
            if section.end is None or section.lost is not None:
                continue
            for blow in self.blows[section.node]:
                if blow.kind in BEYOND and self.ended_by(blow, section) and blow.after + self.grace < section.end:
                    self.accuse("its lock was gone, and nobody told it", section, blow)

    # --- what calls say ----------------------------------------------------

    def _check_answers(self) -> None:
        """No call fails for another reason than its own, or a blow on its node."""
        for section in self.history.sections:
            if section.refused is not None and not self._may_be_refused(section):
                self.accuse(f"refused with {errno.errorcode[section.refused]}, and nothing has happened", section)
            if section.begin is None or self.is_doubtful(section):
                continue
            for tick, error in [(tick, value) for tick, value in section.reads if isinstance(value, int) and value != errno.EIO] + \
                    section.failed:
                if not any((self.ended_by(blow, section) or error == errno.EINTR and self._interrupts(blow, section)) and
                           blow.before <= tick for blow in self.blows[section.node]):
                    self.accuse(f"under a lock, {errno.errorcode[error]} at {tick}", section)

    @staticmethod
    def _interrupts(blow: Blow, section: Section) -> bool:
        """An fsync that waits for the cluster, by stopping its process: it is not begun again, as flock and fcntl are."""
        return (blow.kind == "client-freeze" and blow.phase == "begins" and blow.target == section.client and
                blow.after > section.begin)

    def _may_be_refused(self, section: Section) -> bool:
        error = section.refused
        return (error == errno.EINTR or error == errno.EAGAIN and section.is_try or
                error == errno.EDEADLK and section.way in ("posix", "ofd") or
                any(blow.kind in ANSWERS.get(error, ()) and blow.target in ("", section.lockspace) and
                    blow.before <= section.refused_at and not self._is_over(blow, section) for blow in self.blows[section.node]))

    def _is_over(self, blow: Blow, section: Section) -> bool:
        """Has somebody there had a lock in that lockspace since, some time before this one asked, who opens files just before?"""
        served = self.served[section.node, section.lockspace]
        first = bisect.bisect_right(served, blow.after, key=lambda other: other.asked)
        if first == len(served) or served[first].begin + self.grace >= section.asked:
            return False
        return not any(freeze.kind == "client-freeze" and freeze.target == section.client and freeze.after >= blow.before and
                       freeze.before <= section.refused_at for freeze in self.blows[section.node])

    # --- who waits ---------------------------------------------------------

    def _is_undisturbed(self, section: Section, begin: int, end: int) -> bool:
        """Nothing that stops or reorders queues happened in between, or for a while before."""
        if any(calm.served is not None and calm.served <= begin and end <= calm.end for calm in self.history.calms):
            return True
        for blows in self.blows.values():
            for blow in blows:
                if blow.kind in SMALL and blow.target != section.client:
                    continue
                if blow.before <= end and (blow.after + AFTERMATH * self.history.second >= begin):
                    return False
        return True

    def _check_overtaking(self, sections: list[Section]) -> None:
        for section in sections:
            if section.begin - section.asked < self.grace:
                continue
            overtakers = [other for other in sections if other.client != section.client and
                          other.asked > section.asked + self.grace and other.begin < section.begin and
                          other.mode not in COMPATIBLE[section.mode]]
            if len(overtakers) > OVERTAKEN and self._is_undisturbed(section, section.asked, section.begin):
                self.accuse(f"overtaken by {len(overtakers)} who asked later", section, *overtakers[:5])

    def _check_starvation(self) -> None:
        patience = PATIENCE * self.history.second
        for section in self.history.sections:
            over = section.refused_at if section.begin is None else section.begin
            if over is not None and over < section.asked + patience:
                continue
            for calm in self.history.calms:
                end = calm.end if over is None else min(over, calm.end)
                if max(section.asked, calm.begin) + patience <= end and not self._was_gone(section, calm.begin):
                    self.accuse(f"starves: everything had been well for {PATIENCE} s", section)

    def _was_gone(self, section: Section, tick: int) -> bool:
        """Its process, by then."""
        outage = self.outage(section)
        return (outage is not None and outage.tick <= tick or
                any(blow.kind == "boot" and section.asked < blow.before <= tick or blow.kind == "client-kill" and
                    blow.target == section.client and blow.before <= tick for blow in self.blows[section.node]))


class Published(NamedTuple):
    """A value that others can read."""
    value: str
    by: Optional[Section]                       # None: the empty one that was there before
    at: int                                     # for certain by then


class Register:
    """The value of one resource. Writers exclude each other, so that the order of their sections is the order of what they wrote."""

    def __init__(self, judge_: Judge):
        self.judge = judge_
        self.second = judge_.history.second
        self.figures = judge_.verdict.figures
        self.order: dict[str, int] = {"": 0}    # of all that was written; of what was undone: -1
        self.writers: dict[str, Section] = {}
        self.published = [Published("", None, 0)]
        self.possible: dict[str, Section] = {}  # written since, but perhaps never published

    def check(self, sections: list[Section]) -> None:
        for section in sections:
            for tick, value in section.reads:
                self.figures["values read"] += 1
                if value == errno.EIO:
                    self.figures["values lost"] += 1
                if not self.judge.is_doubtful(section):
                    self._check_read(section, tick, value)
            if section.write is not None:
                self._write(section)

    def _write(self, section: Section) -> None:
        self.order[section.write] = len(self.order)
        self.writers[section.write] = section
        self.figures["values written"] += section.written is not None
        if section.written is not None and section.left is not None and not self._was_struck(section):
            self.published.append(Published(section.write, section, section.left))
            self.possible = {}
        else:
            self.possible[section.write] = section

    def _was_struck(self, section: Section) -> bool:
        """Between its write and its publication, or too soon after for that to be certain."""
        last = section.left + self.judge.grace
        outage = self.judge.outage(section)
        if outage and outage.tick <= last:
            return True
        return any(blow.kind not in SMALL and blow.before <= last and blow.after >= section.write_at
                   for blow in self.judge.blows[section.node])

    def _check_read(self, section: Section, tick: int, value: object) -> None:
        last = self._last_before(section)
        if isinstance(value, int):
            if value == errno.EIO and not self._may_be_lost(last, section, tick, any_node=True):
                self._accuse("a value is said to be lost, and nothing has happened", section)
        elif section.written is not None and section.written < tick:
            if value != section.write:
                self._accuse("who wrote does not read it", section)
        elif value not in self.order:
            self._accuse("a value that nobody had written", section)
        elif value == "" != last.value:
            if not self._may_be_lost(last, section, tick, any_node=False):
                self._accuse("the value is gone, though the mount that wrote it keeps it", section)
        elif section.mode in SURE:
            self._check_sure(section, tick, value)
        elif self.order[value] < self.order[last.value]:
            self._check_old(section, tick, value)

    def _check_sure(self, section: Section, tick: int, value: str) -> None:
        """What it reads is what there is: of the possible values this one has come true, or none."""
        if value in self.possible:
            self.published.append(Published(value, self.possible[value], tick))
        elif value != self.published[-1].value:
            self._check_old(section, tick, value)
        self.possible = {}

    def _check_old(self, section: Section, tick: int, value: str) -> None:
        """Wrong, but for two ways in which a cluster without fencing and the kernel's DLM go back (README.md)."""
        since = [one.by for one in self.published if self.order[one.value] > self.order[value]]
        if self.order[value] < 0 or not since:
            self._accuse("an old value", section)
        elif any(self._was_undone(fork, since, value) for fork in self.judge.forks if fork.gone <= tick):
            self.figures["rolled back"] += len(since)
            self._go_back(value)
        elif self._may_be_forgotten(since[-1], tick):
            self.figures["forgotten"] += 1
            self._go_back(value)
        else:
            self._accuse("an old value", section)

    def _go_back(self, value: str) -> None:
        """From now on this is the last value, and what came after it is older than all."""
        order = self.order[value]
        self.published = [one for one in self.published if self.order[one.value] <= order]
        if self.published[-1].value != value:
            self.published.append(Published(value, self.writers[value], self.writers[value].write_at))
        self.order = {other: -1 if number > order else number for other, number in self.order.items()}
        self.possible = {}

    def _was_undone(self, fork: Fork, since: list[Section], value: str) -> bool:
        """All that came after the value is of the side that had to go, and the value is not."""
        writer = self.writers.get(value)
        if writer and writer.node in fork.side and writer.write_at > fork.begin + self.judge.grace:
            return False
        return all(one.node in fork.side and fork.begin <= one.write_at <= fork.end + self.judge.grace for one in since)

    def _may_be_forgotten(self, last: Section, tick: int) -> bool:
        """Lost with its master, it was marked, and an older one was handed on by who held that when the next master was lost,
        with its node: a daemon that is killed leaves the lockspace, and nothing recovers."""
        losses = [loss for loss in self.judge.losses if loss.target in ("", last.lockspace) and loss.before <= tick and
                  loss.after >= last.write_at - AFTERMATH * self.second]
        holders = [section for section in self.judge.history.sections if section.resource == last.resource and
                   section.mode in HANDED_ON and (section.begin is None or section.begin > last.write_at)]
        return any(self.judge.may_survive(holder, loss) for loss in losses
                   if loss.kind != "daemon-kill" and loss.before > losses[0].after and loss.after > last.write_at
                   for holder in holders)

    def _last_before(self, section: Section) -> Published:
        """That was published when this one asked. Under a lock beside which others write, word of it may be under way."""
        if section.mode in SURE:
            return self.published[-1]
        return next(one for one in reversed(self.published) if one.at + self.judge.grace < section.asked or one.by is None)

    def _may_be_lost(self, last: Published, section: Section, tick: int, any_node: bool) -> bool:
        """Was there a blow since it was written? @any_node: it may have struck the master, and that may be any; if not, the mount
        that keeps it must have been. A daemon that is killed while it has PW or EX, or asks for it, may lose or empty a value,
        wherever it is (README.md)."""
        since = last.by.write_at - AFTERMATH * self.second if last.by else 0
        nodes = [node for node in self.judge.blows if any_node or last.by is None or node == last.by.node]
        if any(since <= outage.tick <= tick and node in nodes for (node, _), outage in self.judge.outages.items()):
            return True
        for node, blows in self.judge.blows.items():
            for blow in blows:
                if not self.judge.is_costly(blow) or not (blow.before <= tick and blow.after >= since):
                    continue
                if blow.kind == "daemon-kill":
                    if node in nodes and not any_node or self.judge.may_write_at(blow, section.resource):
                        return True
                elif node in nodes and blow.target in ("", section.lockspace):
                    return True
        return False

    def _accuse(self, what: str, section: Section) -> None:
        last = self.published[-1]
        self.judge.accuse(what, section, f"last: {last.by or 'never written'}",
                          *(f"perhaps: {one}" for one in self.possible.values()))
