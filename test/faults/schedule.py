"""What goes wrong on a cluster of guests, and when: a schedule of faults made from a seed.

    faults = Faults(cluster, seed=1, world=world)
    while time.monotonic() < end:
        faults.step()
        time.sleep(random_pause)
    faults.heal_all()
    print(faults.counts)

A step injects one fault, or mends one that it injected earlier; heal_all() mends all, and every node runs again when it
returns. What is chosen follows from the seed and from how quickly the nodes come back. The world is what runs on the nodes: the
schedule asks it for clients to hit, and tells it when a node has gone and when it is back. Who keeps a history of it
gives @tell, which is called with an Event when a fault was injected and when it was mended.
"""

import random
import signal
import time
from collections import Counter
from typing import Callable, NamedTuple, Optional, Sequence

from cluster import Cluster, LabError, Node, wait_until

SOON = 60                                       # seconds in which a cluster on a busy machine has noticed anything
THROWN_OUT_IN = 10                              # a node without any lockspace may come back as if nothing had been
THROWN_OUT = "thrown-out"                       # the kind of what no fault of ours has done: the machine was too busy
STUCK = "stuck"                                 # counted: dlm_controlds that waited for each other for ever
PANIC = "panic"                                 # counted: nodes that ended by themselves
STARTS = 3                                      # of a node, until it is given up
AT_ONCE = 4                                     # faults of clients and daemons that last at the same time


class Event(NamedTuple):
    kind: str                                   # see KINDS
    phase: str                                  # "begins" or "ends"
    node: int                                   # 0: none in particular
    target: str                                 # the client or the lockspace; else empty
    before: int                                 # by the clock: nothing had happened yet
    after: int                                  # it had happened


class World:
    """What runs on the nodes. This one is empty: only nodes and their links can be hit."""

    def clients(self, node: Node) -> Sequence:
        """What has name, signal(number) and restart(); the last after it was killed."""
        return ()

    def signal_daemon(self, node: Node, number: int) -> None:
        """lockspacefs there. As with clients, the signal has been sent when this returns: Event.after depends on it."""

    def restart_daemon(self, node: Node) -> Optional[bool]:
        """It was killed: mount again. False: that does not go just now."""

    def lockspaces(self, node: Node) -> Sequence[str]:
        """That may be forced away there."""
        return ()

    def force(self, node: Node, lockspace: str) -> bool:
        """Release it by force; False: that does not go just now."""
        return False

    def remake(self, node: Node, lockspace: str) -> None:
        """It was forced away: make it again."""

    def gone(self, node: Node) -> None:
        """The node has been crashed; its share is still there, until it starts."""

    def back(self, node: Node) -> Optional[bool]:
        """It has started again, and is in the cluster. False: no longer."""


class Fault:
    """One that lasts. inject() and mend() may say False: that does not go just now, and nothing was done."""

    kind = ""
    breaks_node = False                         # its node is thrown out of the cluster, and is started again
    ends_daemon = False                         # with the node, or without
    momentary = False                           # over when inject() returns

    def __init__(self, faults: "Faults", node: Node):
        self.faults = faults
        self.world = faults.world
        self.cluster = faults.cluster
        self.node = node
        self.target = ""

    def choose(self) -> bool:
        """Find what to hit; False: there is nothing."""
        return True

    def inject(self) -> Optional[bool]:
        raise NotImplementedError

    def mend(self) -> Optional[bool]:
        pass

    def victims(self) -> list[Node]:
        return [self.node]

    def __str__(self) -> str:
        return f"{self.kind} on node {self.node.number}" + (f" ({self.target})" if self.target else "")


# --- clients ---------------------------------------------------------------

class ClientFault(Fault):
    def choose(self) -> bool:
        hit = {fault.client for fault in self.faults.lasting if isinstance(fault, ClientFault)}
        free = [client for client in self.world.clients(self.node) if client not in hit]
        if not free:
            return False
        self.client = self.faults.random.choice(free)
        self.target = self.client.name
        return True


class ClientKilled(ClientFault):
    kind = "client-kill"

    def inject(self) -> None:
        self.client.signal(signal.SIGKILL)

    def mend(self) -> None:
        self.client.restart()


class ClientFrozen(ClientFault):
    kind = "client-freeze"

    def inject(self) -> None:
        self.client.signal(signal.SIGSTOP)

    def mend(self) -> None:
        self.client.signal(signal.SIGCONT)


# --- daemons and lockspaces ------------------------------------------------

class DaemonFault(Fault):
    def choose(self) -> bool:
        return not any(fault.node is self.node and isinstance(fault, DaemonFault) for fault in self.faults.lasting)


class DaemonKilled(DaemonFault):
    kind = "daemon-kill"
    ends_daemon = True

    def inject(self) -> None:
        self.world.signal_daemon(self.node, signal.SIGKILL)

    def mend(self) -> Optional[bool]:
        return self.world.restart_daemon(self.node)


class DaemonFrozen(DaemonFault):
    kind = "daemon-freeze"

    def inject(self) -> None:
        self.world.signal_daemon(self.node, signal.SIGSTOP)

    def mend(self) -> None:
        self.world.signal_daemon(self.node, signal.SIGCONT)


class LockspaceForced(DaemonFault):
    """Needs the daemon's answer, so that it is one of those that exclude each other."""
    kind = "force"

    def choose(self) -> bool:
        names = self.world.lockspaces(self.node)
        if not names or not super().choose():
            return False
        self.target = self.faults.random.choice(list(names))
        return True

    def inject(self) -> Optional[bool]:
        return self.world.force(self.node, self.target)

    def mend(self) -> None:
        self.world.remake(self.node, self.target)


# --- what a cluster must survive without throwing anybody out --------------

class NodePaused(Fault):
    kind = "node-pause"
    momentary = True

    def inject(self) -> None:
        self.node.freeze()
        time.sleep(self.faults.blink)
        self.node.thaw()


class LinkBlinks(Fault):
    kind = "link-blink"
    momentary = True

    def inject(self) -> None:
        self.node.cut()
        time.sleep(self.faults.blink)
        self.node.heal()


# --- nodes -----------------------------------------------------------------

class NodeFault(Fault):
    """Mending begins with the end of what is left of the node, and it is started."""
    breaks_node = True
    ends_daemon = True

    def mend(self) -> None:
        for node in self.victims():
            self.faults.crash(node)
            node.heal()
            self.faults.boot(node)


class NodeKilled(NodeFault):
    kind = "node-kill"

    def inject(self) -> None:
        self.faults.crash(self.node)


class NodeHangs(NodeFault):
    """Frozen until the others have gone on without it, and fenced: it never runs again."""
    kind = "node-hang"

    def inject(self) -> None:
        self.node.freeze()

    def mend(self) -> None:
        self.faults.wait_thrown_out(self.node)
        super().mend()


class NodeReturns(NodeHangs):
    """The same without fencing: it runs on, until it notices."""
    kind = "node-return"

    def mend(self) -> None:
        self.faults.wait_thrown_out(self.node)
        self.faults.endure(lambda: self.node.throw_out(THROWN_OUT_IN))
        NodeFault.mend(self)


class LinkFault(NodeFault):
    """The victims are cut off until both sides have noticed; connected again, they are the ones that have to go."""

    def mend(self) -> None:
        for node in self.victims():
            self.faults.wait_thrown_out(node)
            self.faults.endure(lambda: wait_until(lambda: not node.is_quorate(), SOON, f"{node.name} notices"))
        self.connect()
        for node in self.victims():
            self.faults.endure(lambda: wait_until(lambda: not node.members(), THROWN_OUT_IN, f"{node.name} is thrown out"))
        super().mend()

    def connect(self) -> None:
        raise NotImplementedError


class LinkCut(LinkFault):
    """A cable is pulled."""
    kind = "link-cut"

    def inject(self) -> None:
        self.node.cut()

    def connect(self) -> None:
        self.node.heal()


class ControldKilled(NodeFault):
    """The node's word in the cluster's DLM: its lockspaces stop, and the others go on without it."""
    kind = "controld-kill"

    def inject(self) -> None:
        self.node.run("kill -9 $(pidof dlm_controld)", SOON)

    def mend(self) -> None:
        self.faults.wait_thrown_out(self.node)
        super().mend()


class PartLost(NodeFault):
    """As many nodes as there can be for the others to have quorum, or one more."""
    more = 0

    def choose(self) -> bool:
        nodes = self.cluster.nodes
        count = (len(nodes) - 1) // 2 + self.more
        self._victims = self.faults.random.sample([node for node in nodes if node is not self.faults.spared], count)
        return 0 < count < len(nodes)

    def victims(self) -> list[Node]:
        return self._victims

    def __str__(self) -> str:
        return f"{self.kind}: nodes {', '.join(str(node.number) for node in self._victims)}"


class LinkSplit(LinkFault, PartLost):
    """They can reach each other, and nobody else."""
    kind = "link-split"

    def inject(self) -> None:
        self.cluster.split(self._victims)

    def connect(self) -> None:
        self.cluster.unite()


class QuorumLost(PartLost):
    """So many nodes are killed at once that those who are left may not go on."""
    kind = "quorum"
    more = 1

    def inject(self) -> None:
        for node in self._victims:
            self.faults.crash(node)


KINDS = {fault.kind: fault for fault in (
    ClientKilled, ClientFrozen, DaemonKilled, DaemonFrozen, LockspaceForced, NodePaused, LinkBlinks, NodeKilled,
    NodeHangs, NodeReturns, LinkCut, LinkSplit, ControldKilled, QuorumLost)}


# --- the schedule ----------------------------------------------------------

class Faults:
    """
    kinds      those that may happen (default: all of KINDS); each as likely as any other
    world      what runs on the nodes
    tell       called with each Event
    clock      what Event.before and .after are read from
    spared     a node whose daemon no fault ends
    look       called with each node when dlm_controlds wait for each other for ever, and with one that has ended by itself
    """

    def __init__(self, cluster: Cluster, seed: int, kinds: Optional[Sequence[str]] = None, world: Optional[World] = None,
                 tell: Callable[[Event], None] = lambda event: None, clock: Callable[[], int] = time.monotonic_ns,
                 spared: Optional[Node] = None, look: Callable[[Node], None] = lambda node: None):
        self.cluster = cluster
        self.random = random.Random(seed)
        self.kinds = sorted(kinds if kinds is not None else KINDS)
        self.world = world or World()
        self.tell = tell
        self.clock = clock
        self.spared = spared
        self.look = look
        self.blink = int(cluster.token) / 4000
        self.counts: Counter[str] = Counter()   # injected so far
        self.lasting: list[Fault] = []
        self._booting: dict[Node, None] = {}    # started, and not in the cluster yet; in order
        self._gone: set[Node] = set()           # crashed, and not started since
        self._due: list[str] = []               # of the kinds, in this round
        self._newest = next(node for node in reversed(cluster.nodes) if node is not spared)     # started last
        self._turn = 0                          # whose health is looked at next
        self._ran: dict[Node, int] = {}         # by the clock: when it was last seen to

    def step(self) -> str:
        """Inject one fault or mend one, and say which: in words for a log."""
        if said := self._bury():
            return said
        try:
            return self._step()
        except LabError:
            if said := self._bury():            # a node has ended meanwhile
                return said
            raise

    def _step(self) -> str:
        self.settle()
        if said := self._look_after_one():
            return said
        if len(self.lasting) >= AT_ONCE or (self.lasting and self.random.random() < 0.5):
            return self._mend(self.random.choice(self.lasting))
        # every kind once before any comes again: a short schedule has them all
        for _ in range(2):
            for kind in list(self._due):
                if fault := self._possible(kind):
                    self._due.remove(kind)
                    return self._inject(fault)
            self._due += [kind for kind in self.random.sample(self.kinds, len(self.kinds)) if kind not in self._due]
        return self._mend(self.lasting[0]) if self.lasting else "nothing can be hit"

    def heal_all(self, timeout: float = 120) -> None:
        """All faults are mended, and every node is back."""
        for fault in [fault for fault in self.lasting if fault.breaks_node]:
            self._mend(fault)
        stuck = 0
        for _ in range(5):
            while self._booting:
                self._await_boot(next(iter(self._booting)), timeout)
            if ill := self._not_whole(timeout):
                for node in ill:
                    self._replace(node)
            elif unsettled := self._unsettled(timeout):
                stuck += 1
                self._unstick([self._newest] if stuck == 1 else unsettled)
            else:
                break
        else:
            raise LabError("the cluster does not become whole")
        for fault in list(self.lasting):
            self._mend(fault)
        if self.lasting:
            raise LabError(f"cannot be mended: {', '.join(map(str, self.lasting))}")

    def is_whole(self) -> bool:
        """After heal_all(): is it so still?"""
        return not self._not_whole(0) and not self._unsettled(0)

    def settle(self) -> None:
        """Nodes that have come up since are put to use."""
        for node in list(self._booting):
            if (node.share / "ready").exists() or (node.share / "failed").exists() or not node.runs():
                self._await_boot(node, SOON)

    def up(self) -> list[Node]:
        """The nodes on which everything runs, but for clients and daemons that were hit."""
        away = self._away()
        return [node for node in self.cluster.nodes if node not in away and node.runs()]

    # --- for the faults ---

    def crash(self, node: Node, ran: Optional[int] = None) -> None:
        """As often as one likes; the world is told once. Where a fault is mended like this, too: the node may be back
        before the others have missed it. @ran: when it still did, if it has ended by itself."""
        before = self.clock() if ran is None else ran
        node.crash()
        after = self.clock()
        self._forget_on(node)
        self._booting.pop(node, None)
        if node not in self._gone:
            self._gone.add(node)
            self.world.gone(node)
            self.tell(Event(NodeKilled.kind, "begins", node.number, "", before, after))

    def boot(self, node: Node) -> None:
        """Not before the others have missed it: no machine starts that quickly."""
        self.wait_thrown_out(node)
        self._gone.discard(node)
        node.boot(members=self.cluster.size // 2 + 1)
        self._booting[node] = None
        self._newest = node

    def wait_thrown_out(self, node: Node) -> None:
        """By the word of one that is well: who is in the cluster is known without quorum, too."""
        well = [other for other in self.up() if other is not node]
        if well:
            self.endure(lambda: wait_until(lambda: node.number not in well[0].members(SOON), SOON,
                                           f"{node.name} is thrown out"))

    def endure(self, what: Callable[[], object]) -> None:
        """Who is ill may not answer; it is crashed next."""
        try:
            what()
        except LabError:
            self.counts["unanswered"] += 1

    # --- steps ---

    def _forget_on(self, node: Node) -> None:
        """Smaller faults on a node that is to be started again."""
        self.lasting = [fault for fault in self.lasting if fault.breaks_node or fault.node is not node]

    def _away(self) -> set[Node]:
        """That have been broken, and are not back yet."""
        broken = {node for fault in self.lasting if fault.breaks_node for node in fault.victims()}
        return broken | self._gone | set(self._booting)

    def _bury(self) -> str:
        """Nodes that have ended by themselves: their kernel has panicked (lockspacefs(5) knows of one reason)."""
        away = self._away()
        now = self.clock()
        said = ""
        for node in self.cluster.nodes:
            if node in away:
                self._ran.pop(node, None)
            elif node.runs():
                self._ran[node] = now
            else:
                self.look(node)
                self.crash(node, self._ran.pop(node, now))
                self.boot(node)
                self.counts[PANIC] += 1
                said = f"node {node.number} has ended by itself: started again"
        return said

    def _look_after_one(self) -> str:
        """A node whose dlm_controld has ended without our doing is of no use: it is started again."""
        up = self.up()
        if not up:
            return ""
        self._turn += 1
        node = up[self._turn % len(up)]
        before = self.clock()
        if self._members(node):
            return ""
        self._replace(node, before)
        return f"node {node.number} was thrown out: started again"

    def _members(self, node: Node) -> list[int]:
        try:
            return node.members(SOON)
        except LabError:
            return []

    def _replace(self, node: Node, before: Optional[int] = None) -> None:
        before = self.clock() if before is None else before
        self.tell(Event(THROWN_OUT, "begins", node.number, "", before, self.clock()))
        self.crash(node)
        self.boot(node)
        self.counts[THROWN_OUT] += 1

    def _not_whole(self, timeout: float) -> list[Node]:
        """When all faults are mended: who does not see everybody after a while."""
        return self._without(lambda node: len(self._members(node)) == self.cluster.size, timeout)

    def _unsettled(self, timeout: float) -> list[Node]:
        """All see everybody, but in a lockspace these wait for a word that nobody says."""
        return self._without(self._is_settled, timeout)

    def _without(self, has: Callable[[Node], bool], timeout: float) -> list[Node]:
        """The nodes that have it not after a while."""
        deadline = time.monotonic() + min(timeout, SOON) / 2
        while True:
            without = [node for node in self.cluster.nodes if not has(node)]
            if not without or time.monotonic() > deadline:
                return without
            time.sleep(0.1)

    @staticmethod
    def _is_settled(node: Node) -> bool:
        try:
            return node.is_settled(SOON)
        except LabError:
            return False

    def _unstick(self, nodes: Sequence[Node]) -> None:
        """As an administrator would, who finds them like that."""
        for node in self.cluster.nodes:
            self.look(node)
        for node in nodes:
            self.crash(node)
        for node in nodes:
            self.boot(node)
        self.counts[STUCK] += 1

    def _possible(self, kind: str) -> Optional[Fault]:
        up = self.up()
        breaks = KINDS[kind].breaks_node
        if not up or (breaks and len(up) < self.cluster.size):          # one node at a time, or so many as quorum takes
            return None
        for node in self.random.sample(up, len(up)):
            fault = KINDS[kind](self, node)
            if fault.choose() and not (fault.ends_daemon and self.spared in fault.victims()):
                return fault
        return None

    def _inject(self, fault: Fault) -> str:
        for node in fault.victims() if fault.breaks_node else ():
            self._forget_on(node)
        if not fault.momentary:
            self.lasting.append(fault)          # before: a node that is killed takes the smaller ones with it
        before = self.clock()
        if fault.inject() is False:
            self.lasting.remove(fault)
            return f"{fault}: not now"
        self._tell(fault, "begins", before)
        self.counts[fault.kind] += 1
        return f"{fault}"

    def _mend(self, fault: Fault) -> str:
        before = self.clock()
        if fault.mend() is False:
            return f"{fault}: cannot be mended yet"
        if fault in self.lasting:
            self.lasting.remove(fault)
        self._tell(fault, "ends", before)
        return f"{fault}: mended"

    def _tell(self, fault: Fault, phase: str, before: int) -> None:
        after = self.clock()
        for node in fault.victims():
            self.tell(Event(fault.kind, phase, node.number, fault.target, before, after))

    def _await_boot(self, node: Node, timeout: float) -> None:
        """On a busy machine a start may fail: once more, then."""
        for _ in range(STARTS):
            if self._is_ready(node, timeout):
                self._booting.pop(node, None)
                if self.world.back(node) is not False:
                    return
            self.counts["starts that failed"] += 1
            self.crash(node)
            self.boot(node)
        raise LabError(f"node {node.number} does not start")

    @staticmethod
    def _is_ready(node: Node, timeout: float) -> bool:
        try:
            node.wait_ready(timeout)
        except LabError:
            return False
        return True
