"""What goes wrong during a soak. On a cluster: the schedule of test/faults, whose world is a run (soak.py); on this
machine clients alone are hit, since a daemon that is killed takes its locks along. Both have step(), heal_all(), counts.

A run is told whose lives end by a fault and since when, and starts new ones by itself.
"""

import random
import signal
import time
from collections import Counter

import schedule
from cluster import LabError

UNNOTICED = 30                                  # seconds for which a node may have been thrown out before anybody saw it
LOSING = {schedule.THROWN_OUT,                  # with these a value may be lost
          *(kind for kind, fault in schedule.KINDS.items() if fault.ends_daemon)}
KINDS = [kind for kind in schedule.KINDS if kind != schedule.LockspaceForced.kind]      # clients do that themselves
LOCAL_KINDS = ["client-kill", "client-freeze"]


class Client:
    """A life, as the schedule hits it."""

    def __init__(self, life):
        self._life = life
        self.name = life.name

    def signal(self, number):
        if number == signal.SIGKILL:
            self._life.doom(time.time())
        self._life.program.signal(number)

    def restart(self):
        """The run starts the next life when this one has ended."""

    def __eq__(self, other):
        return self.name == other.name

    def __hash__(self):
        return hash(self.name)


class ClusterWorld(schedule.World):
    def __init__(self, run):
        self._run = run
        self._postponed = []                    # mounts that did not come back

    def _mount(self, node):
        return self._run.place.mounts[node.number - 1]

    def clients(self, node):
        return [Client(life) for life in self._run.clients_on(self._mount(node))]

    def signal_daemon(self, node, number):
        mount = self._mount(node)
        if number == signal.SIGKILL:
            mount.is_whole = False
            self._run.doom_on(mount.number, time.time())
        mount.signal_daemon(number)

    def restart_daemon(self, node):
        mount = self._mount(node)
        self._run.end_lives_on(mount)
        try:
            mount.mount_again()
        except LabError:                        # it hangs in the kernel for as long as its lockspaces are stopped
            return False
        return True

    def gone(self, node):
        mount = self._mount(node)
        mount.is_whole = False
        self._run.doom_on(mount.number, time.time())
        self._run.bury_lives_on(mount)

    def back(self, node):
        mount = self._mount(node)
        try:
            mount.mount()
        except LabError:                        # while other faults last it may find no cluster
            self._postponed.append(mount)

    def finish(self):
        """All faults are mended."""
        while self._postponed:
            mount = self._postponed.pop()
            if not mount.is_whole:
                mount.mount_again()


class ClusterFaults(schedule.Faults):
    def heal_all(self, timeout=120):
        super().heal_all(timeout)
        self.world.finish()


def on_cluster(run, kinds):
    def tell(event):
        if event.phase == "begins" and event.kind in LOSING:
            since = event.before / 1e9 - (UNNOTICED if event.kind == schedule.THROWN_OUT else 0)
            run.lose_since(since)
            run.doom_on(event.node, since)

    cluster = run.place.cluster
    return ClusterFaults(cluster, run.seed, kinds, ClusterWorld(run), tell, time.time_ns,
                         spared=cluster.nodes[run.seed % cluster.size])         # a daemon that is judged over the whole time


class LocalFaults:
    def __init__(self, run, kinds):
        self._run = run
        self._dice = random.Random(run.seed)
        self._frozen = []
        self._kinds = [kind for kind in LOCAL_KINDS if kind in kinds]
        self.counts = Counter()

    def step(self):
        kind = self._dice.choice(self._kinds)
        client = Client(self._dice.choice(self._run.clients_on(self._run.place.mounts[0])))
        client.signal(signal.SIGKILL if kind == "client-kill" else signal.SIGSTOP)
        if kind == "client-freeze":
            self._frozen.append(client)
        self.counts[kind] += 1
        return f"{kind} ({client.name})"

    def heal_all(self):
        while self._frozen:
            self._frozen.pop().signal(signal.SIGCONT)


def faults_for(run, kinds=None):
    kinds = kinds or KINDS
    return LocalFaults(run, kinds) if run.place.engine == "local" else on_cluster(run, kinds)
