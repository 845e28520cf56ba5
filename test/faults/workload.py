"""What runs on the nodes while faults hit them: lockspacefs, clients that take locks, and a watcher of the cluster.

A Workload is the schedule's World. It gathers the records of a node before that starts again, and of all in the end.
"""

import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Sequence

import tools
from cluster import Cluster, LabError, LabTimeout, LockspacefsDaemon, Node
from lockspacefs_test import trouble_in
from records import Blow, Clock, History, last_served, read_client, read_watch
from schedule import World

MOUNT = "/dlm"
OPTIONS = "wait=2"
SOON = 60


class Client:
    """A process with one name and one record; started again it has others."""

    def __init__(self, place: "Place", index: int):
        self.place = place
        self.index = index
        self.life = 0
        self.start()

    def start(self) -> None:
        workload, place = self.place.workload, self.place
        self.life += 1
        self.name = f"n{place.node.number}.{place.boot}.{self.index}.{self.life}"
        seed = ((workload.seed * 1009 + place.boot) * 101 + self.index) * 10007 + self.life
        words = [program("faults-client"), self.name, seed, place.record(self.name), MOUNT, workload.broken, *workload.resources]
        self.job = place.node.popen(f"exec {shlex.join(map(str, words))}")

    restart = start

    def signal(self, number: int) -> None:
        self.job.kill(number, SOON)

    def was_served(self, since: int) -> bool:
        path = self.place.record(self.name)
        return path.exists() and last_served(path) > since


class Place:
    """A node from its start to its end, and what was started there."""

    def __init__(self, workload: "Workload", node: Node, boot: int):
        self.workload = workload
        self.node = node
        self.boot = boot
        self.records = node.share / "records"
        self.records.mkdir(exist_ok=True)
        self.started = workload.clock.now()
        self.daemons: list[LockspacefsDaemon] = []
        self.clients: list[Client] = []

    def start(self) -> None:
        node, workload = self.node, self.workload
        # where no lockspacefs is mounted nothing can be made or locked: else clients would go on there, each node alone
        node.run(f"mkdir -p {MOUNT} && mount -t tmpfs -o ro,mode=755 none {MOUNT}", SOON, check=True)
        self.watch = node.popen(f"exec {program('faults-watch')} {self.record('watch')}")
        self.mount()
        self.clients = [Client(self, index) for index in range(1, workload.clients_of_each + 1)]
        workload.tell(Blow("boot", "begins", node.number, "", self.started, workload.clock.now()))

    def record(self, name: str) -> Path:
        return self.records / name

    def mount(self) -> None:
        self.daemons.append(self.node.mount_lockspacefs(OPTIONS, MOUNT, strict=False, timeout=SOON))
        for lockspace in self.workload.lockspaces_used:
            self.make(lockspace)

    def make(self, lockspace: str) -> None:
        """Nobody waits: without quorum that takes until there is one."""
        path = shlex.quote(f"{MOUNT}/{lockspace}")
        self.node.popen(f"until mkdir {path} || [ -e {path}/.force ]; do sleep 0.05; done 2>/dev/null")

    def gather(self) -> None:
        """Into the history. That all of it lies between the node's start and now proves that the clock is one."""
        history, now = self.workload.history, self.workload.clock.now()
        sections = [section for path in self.records.iterdir() if path.name != "watch"
                    for section in read_client(path, path.name, self.node.number)]
        views = read_watch(self.record("watch"), self.node.number) if self.record("watch").exists() else []
        ticks = [section.asked for section in sections] + [view.tick for view in views]
        if any(not self.started <= tick <= now for tick in ticks):
            raise LabError(f"node {self.node.number} has another clock than the host")
        history.sections += sections
        history.views += views

    def complaints(self) -> list[str]:
        return [f"node {self.node.number}: {line}" for daemon in self.daemons for line in trouble_in(daemon.log())]


def program(name: str) -> Path:
    return tools.daemon().parent.parent / "test" / "faults" / name


class Workload(World):
    """
    resources          LOCKSPACE/NAME, each wanted by every client
    clients_of_each    node
    broken             see client.c: 0, or N: clients ignore every Nth lock for writing
    """

    def __init__(self, cluster: Cluster, clock: Clock, resources: Sequence[str], clients_of_each: int, seed: int, broken: int = 0):
        self.cluster = cluster
        self.clock = clock
        self.resources = list(resources)
        self.clients_of_each = clients_of_each
        self.seed = seed
        self.broken = broken
        self.lockspaces_used = sorted({resource.split("/")[0] for resource in resources})
        self.history = History(second=clock.second)
        self.complaints: list[str] = []         # of daemons
        self.places: dict[Node, Place] = {}
        self._boots = 0

    def start(self) -> None:
        with ThreadPoolExecutor() as pool:
            if not all(pool.map(self.back, self.cluster.nodes)):
                raise LabError("the cluster has lost its quorum")

    def tell(self, event: tuple) -> None:
        self.history.blows.append(Blow(*event))

    def finish(self) -> None:
        """The clients are killed, the daemons end well, and all records are in the history."""
        self.history.stopped = self.clock.now()
        for place in self.places.values():
            for job in (place.watch, *(client.job for client in place.clients)):
                job.kill()
        for node, place in self.places.items():
            try:
                node.run(f"until umount {MOUNT}; do sleep 0.05; done 2>/dev/null", SOON)
                status = place.daemons[-1].job.wait(SOON).returncode
                if status != 0:
                    self.complaints.append(f"node {node.number}: lockspacefs ended with {status}")
            except LabTimeout:
                self.complaints.append(f"node {node.number}: lockspacefs does not end")
            except LabError as error:
                self.complaints.append(f"node {node.number}: {error}")
        for node in list(self.places):
            self.gone(node)

    def not_served(self, since: int) -> list[str]:
        """The clients that have got none of the locks that they asked for since then."""
        return [client.name for place in self.places.values() for client in place.clients if not client.was_served(since)]

    # --- for the schedule: see World ---

    def clients(self, node: Node) -> Sequence[Client]:
        return self.places[node].clients

    def signal_daemon(self, node: Node, number: int) -> None:
        self.places[node].daemons[-1].job.kill(number, SOON)

    def restart_daemon(self, node: Node) -> bool:
        """Without quorum lockspacefs does not start, and says so."""
        node.run(f"grep -q ' {MOUNT} fuse' /proc/mounts && umount -l {MOUNT}", SOON)
        return self._unless_without_quorum(node, self.places[node].mount)

    def lockspaces(self, node: Node) -> Sequence[str]:
        return self.lockspaces_used

    def force(self, node: Node, lockspace: str) -> bool:
        """What cannot be done yet goes on behind; who is refused has done nothing."""
        path = shlex.quote(f"{MOUNT}/{lockspace}")
        done = node.run(f"echo 1 >{path}/.force && LC_ALL=C rmdir {path} 2>&1", SOON)
        return done.returncode == 0 or "Operation now in progress" in done.stdout

    def remake(self, node: Node, lockspace: str) -> None:
        self.places[node].make(lockspace)

    def gone(self, node: Node) -> None:
        if place := self.places.pop(node, None):
            place.gather()
            self.complaints += place.complaints()

    def back(self, node: Node) -> bool:
        self._boots += 1
        place = self.places[node] = Place(self, node, self._boots)
        return self._unless_without_quorum(node, place.start)

    @staticmethod
    def _unless_without_quorum(node: Node, what: Callable[[], None]) -> bool:
        """Nor thrown out of the cluster: its dlm_controld has ended then."""
        try:
            what()
        except LabError as error:
            if "no quorum" not in str(error) and node.members(SOON):
                raise
            return False
        return True
