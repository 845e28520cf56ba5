"""A DLM cluster of User-Mode-Linux guests: Cluster, its Nodes, and the Jobs that run on them.

    with Cluster(3) as cluster:
        cluster.node(1).run("dlm_tool join web", check=True)
        held = cluster.node(1).dlmlock("web", "lock a deploy EX")
        held.wait_for("a granted")
        cluster.node(1).crash()

A cluster ends with the program that made it, however that program ends: a keeper waits for it. One made with
persist=True stays until somebody calls down(); Cluster.find() gives it back to another program.
"""

import base64
import codecs
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence, Union

import sessions
import tools

INPUT_MAX = 4096                                # what labinit takes at once
CONSOLE_LINES = 40                              # of the console that go into an error message
POLL = 0.005


class LabError(Exception):
    pass


class LabTimeout(LabError):
    pass


def wait_until(predicate: Callable[[], object], timeout: float, what: str) -> object:
    """Poll until predicate() is true and return what it said."""
    deadline = time.monotonic() + timeout
    while True:
        if seen := predicate():
            return seen
        if time.monotonic() > deadline:
            raise LabTimeout(f"{what}: not within {timeout:g} s")
        time.sleep(POLL)


class Output:
    """What a job prints, as it comes: a file that grows."""

    def __init__(self, path: Path):
        self.path = path
        self.offset = 0
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def more(self) -> str:
        """What has come since the last call."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return ""
        self.offset += len(data)
        return self.decoder.decode(data)

    def all(self) -> str:
        try:
            return self.path.read_bytes().decode(errors="replace")      # as it is: no newline is translated
        except FileNotFoundError:
            return ""


class Job:
    """A shell command on a node. It goes on by itself; whoever is interested waits for it or for its output."""

    def __init__(self, node: "Node", command: str, stdin: bool = False):
        self.node = node
        self.command = command
        self.id = uuid.uuid4().hex[:16]
        self.stdout = Output(self._result("out"))
        self.stderr = Output(self._result("err"))
        self._pieces = 0                        # of input sent so far
        self._order("pipe" if stdin else "cmd", command + "\n")

    def _result(self, suffix: str) -> Path:
        return self.node.share / "jobs" / f"{self.id}.{suffix}"

    def _order(self, suffix: str, content: Union[str, bytes] = "") -> None:
        """An order appears whole."""
        unfinished = self.node.share / f"{self.id}-new"
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
        unfinished.rename(self.node.share / f"{self.id}.{suffix}")

    def _number(self, suffix: str) -> Optional[int]:
        try:
            return int(self._result(suffix).read_text())
        except FileNotFoundError:
            return None

    def out(self) -> str:
        return self.stdout.all()

    def err(self) -> str:
        return self.stderr.all()

    def poll(self) -> Optional[int]:
        """Its status; 128 + N after signal N; None while it runs."""
        return self._number("rc")

    @property
    def pid(self) -> int:
        """On its node: that of the shell, or of what the shell has become by exec."""
        return wait_until(lambda: self._number("pid"), 10, f"{self}: start")

    def kill(self, number: int = signal.SIGKILL, timeout: float = 0) -> None:
        """A signal for its process group. @timeout: wait so long at most until it has been sent there."""
        self._order(f"{int(number)}.kill")
        if timeout:
            wait_until(lambda: not (self.node.share / f"{self.id}.{int(number)}.kill").exists(), timeout, f"{self}: signal {number}")

    def send(self, text: str) -> None:
        """More input, for one that was started with stdin=True."""
        data = text.encode()
        for start in range(0, len(data), INPUT_MAX):
            self._order(f"{self._pieces}.in", data[start:start + INPUT_MAX])
            self._pieces += 1

    def close_stdin(self, timeout: float = 10) -> None:
        """The end of its input, once it has taken all."""
        wait_until(lambda: not list(self.node.share.glob(f"{self.id}.*.in")), timeout, f"{self}: taking its input")
        self._order("eof")

    def wait(self, timeout: float = 60) -> subprocess.CompletedProcess:
        """Its end. When that does not come it is killed, and LabTimeout raised."""
        self._await(lambda: self.poll() is not None, timeout, "its end", kill=True)
        return subprocess.CompletedProcess(self.command, self.poll(), self.out(), self.err())

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """Wait until it has printed @text; everything it has printed so far."""
        def printed() -> bool:
            ended = self.poll() is not None     # before looking: what it printed last counts
            if text in self.out():
                return True
            if ended:
                raise LabError(f"{self} ended ({self.poll()}) without printing {text!r}\n{self._transcript()}")
            return False

        self._await(printed, timeout, f"printing {text!r}")
        return self.out()

    def follow(self, timeout: float = float("inf")) -> Iterator[tuple[str, str]]:
        """("out" or "err", text) as it is printed, until the end."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.poll() is not None
            for name, output in (("out", self.stdout), ("err", self.stderr)):
                if text := output.more():
                    yield name, text
            if ended:
                return
            if time.monotonic() > deadline:
                self.kill()
                raise LabTimeout(f"{self}: still running after {timeout:g} s")
            if not self.node.runs():
                raise LabError(f"{self}: the node is gone")
            time.sleep(POLL)

    def _await(self, predicate: Callable[[], bool], timeout: float, what: str, kill: bool = False) -> None:
        deadline = time.monotonic() + timeout
        while not predicate():
            if not self.node.runs():
                raise LabError(f"{self}: the node is gone\n{self._transcript()}")
            if time.monotonic() > deadline:
                if kill:
                    self.kill()
                raise LabTimeout(f"{self}: {what} did not come within {timeout:g} s\n{self._transcript()}")
            time.sleep(POLL)

    def _transcript(self) -> str:
        return f"stdout: {self.out()}\nstderr: {self.err()}"

    def __str__(self) -> str:
        return f"node {self.node.number}: {self.command.splitlines()[0][:80] if self.command else ''!r}"


class LockspacefsDaemon:
    """lockspacefs in the foreground on a node. Its log is kept in the share."""

    def __init__(self, node: "Node", job: Job, mountpoint: str):
        self.node = node
        self.job = job
        self.mountpoint = mountpoint

    def log(self) -> str:
        return self.job.out() + self.job.err()

    def unmount(self, timeout: float = 30) -> int:
        """umount; the status with which the daemon then ends."""
        self.node.run(f"umount {shlex.quote(self.mountpoint)}", timeout, check=True)
        return self.job.wait(timeout).returncode

    def signal(self, number: int) -> None:
        self.job.kill(number)

    def kill(self) -> None:
        """SIGKILL, and away with what is left of the mount."""
        self.job.kill()
        self.job.wait(30)
        self.node.run(f"umount -l {shlex.quote(self.mountpoint)}", 30)

    def __enter__(self) -> "LockspacefsDaemon":
        return self

    def __exit__(self, *exc) -> None:
        if not self.node.runs() or self.job.poll() is not None:
            return
        if exc[0]:
            self.kill()
            return
        status = self.unmount()
        if status != 0:
            raise LabError(f"node {self.node.number}: lockspacefs ended with {status}\n{self.log()}")


class Node:
    """One machine of the cluster, whether it runs at the moment or not."""

    def __init__(self, cluster: "Cluster", number: int):
        self.cluster = cluster
        self.number = number
        self.name = f"node{number}"
        self.share = cluster.state / "share" / self.name      # the same path on both sides
        self.frozen = False

    # --- its life ---

    def boot(self, members: int = 1) -> None:
        """Start it without waiting. It is ready when it sees so many members, itself included."""
        if self.runs():
            raise LabError(f"node {self.number} already runs")
        cluster = self.cluster
        shutil.rmtree(self.share, ignore_errors=True)
        shutil.rmtree(cluster.state / "uml" / self.name, ignore_errors=True)
        (self.share / "jobs").mkdir(parents=True)
        self.frozen = False
        environment = {**cluster.environment(), "LAB_NODE": self.number, "LAB_AWAIT": members}
        (self.share / "options").write_text("".join(f"{key}={value}\n" for key, value in environment.items()))
        mac = f"fe:fd:00:00:00:{self.number:02x}"
        arguments = [
            str(tools.guest_kernel(cluster.kernel)), f"mem={cluster.mem}", "rootfstype=hostfs", "rootflags=/", "ro",
            "quiet", "panic=-1", f"init={tools.helpers() / 'labinit'}", f"share={self.share}",
            # nothing here uses RAID 6 or old ptys; their set-up takes 1.2 s
            "initcall_blacklist=raid6_select_algo,init_btrfs_fs", "pty.legacy_count=0",
            "con=null", "con0=null,fd:1", f"umid={self.name}", f"uml_dir={cluster.state / 'uml'}",
            f"eth0=daemon,{mac},unix,{cluster.state / 'switch.ctl'}",
        ]
        # A node is one CPU's worth of processes that trace each other; spread
        # over CPUs, each system call of the guest waits for a wake-up across.
        cpus = sorted(os.sched_getaffinity(0))
        cluster.spawn(self.name, arguments, cpu=cpus[self.number % len(cpus)])

    def wait_ready(self, timeout: float = 60) -> None:
        def ready() -> bool:
            if (self.share / "failed").exists():
                raise LabError(f"{self.name}: {(self.share / 'failed').read_text().strip()}\n{self.console_end()}")
            if (self.share / "ready").exists():
                return True
            if not self.runs():
                raise LabError(f"{self.name}: it ended\n{self.console_end()}")
            return False

        try:
            wait_until(ready, timeout, f"{self.name} is ready")
        except LabTimeout as error:
            raise LabTimeout(f"{error}\n{self.console_end()}") from None

    def start(self, timeout: float = 60, members: int = 1) -> None:
        """Start it, after a crash say, and wait until it is in the cluster."""
        self.boot(members)
        self.wait_ready(timeout)

    def runs(self) -> bool:
        return sessions.find(self.cluster.state, self.name) is not None

    def crash(self) -> None:
        """As a power failure. Harmless when it does not run."""
        self.cluster.end(self.name)
        self.frozen = False

    def freeze(self) -> None:
        """It hangs: nothing runs on it any more. Longer than the token, and the others go on without it.

        Then thaw() lets two sides meet that both think they have quorum, and each kills corosync on the other,
        so that often a single node is left: what fencing is there to prevent. throw_out() makes sure who loses.
        """
        sessions.send(self.cluster.state, self.name, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        sessions.send(self.cluster.state, self.name, signal.SIGCONT)
        self.frozen = False

    def throw_out(self, timeout: float = 30) -> None:
        """Thaw a node that the others have given up, where it learns first that it is alone; its dlm_controld ends."""
        self.cut()
        self.thaw()
        wait_until(lambda: not self.is_quorate(), timeout, f"{self.name} notices that it is alone")
        self.heal()
        wait_until(lambda: not self.members(), timeout, f"{self.name} is thrown out")

    def cut(self) -> None:
        """Pull its network cable: it runs on, alone. Once it has lost quorum, heal() lets the others throw it out."""
        self.cluster.ask_switch(f"cut {self.number}")

    def heal(self) -> None:
        self.cluster.ask_switch(f"heal {self.number}")

    def console(self) -> str:
        """What it printed since the cluster was made."""
        return (self.cluster.state / f"{self.name}.log").read_text(errors="replace")

    def console_end(self) -> str:
        return "\n".join(self.console().splitlines()[-CONSOLE_LINES:])

    def is_quorate(self, timeout: float = 10) -> bool:
        return "quorate 1" in self.run("dlm_tool status", timeout).stdout

    def members(self, timeout: float = 10) -> list[int]:
        """The nodes that its dlm_controld counts as members; empty when that does not run."""
        lines = self.run("dlm_tool status", timeout).stdout.splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("node ") and line.split()[2] == "M"]

    def is_settled(self, timeout: float = 10) -> bool:
        """Has its dlm_controld no change of a lockspace before it?"""
        return "new status" not in self.run("dlm_tool ls", timeout).stdout

    # --- what runs on it ---

    def popen(self, command: str, stdin: bool = False, user: Union[int, str, None] = None) -> Job:
        """Start a shell command; @user: as somebody else, who need not be in /etc/passwd."""
        if not self.runs():
            raise LabError(f"node {self.number} does not run")
        if user is not None:
            group = user if isinstance(user, int) else 65534
            command = f"exec setpriv --reuid={user} --regid={group} --clear-groups " \
                      f"env HOME=/tmp sh -c {shlex.quote(command)}"
        return Job(self, command, stdin)

    def run(self, command: str, timeout: float = 60, check: bool = False,
            user: Union[int, str, None] = None) -> subprocess.CompletedProcess:
        """Run a shell command to its end; LabTimeout if that does not come. @check: a failure is a LabError."""
        done = self.popen(command, user=user).wait(timeout)
        if check and done.returncode != 0:
            raise LabError(f"node {self.number}: {command!r} failed with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write_file(self, path: str, content: Union[str, bytes], mode: int = 0o644) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        quoted = shlex.quote(path)
        encoded = base64.encodebytes(data).decode()
        self.run(f"base64 -d >{quoted} <<'END'\n{encoded}END\nchmod {mode:o} {quoted}", check=True)

    def read_file(self, path: str, timeout: float = 60) -> str:
        return self.run(f"cat {shlex.quote(path)}", timeout, check=True).stdout

    def dlmlock(self, lockspace: str, *commands: str) -> Job:
        """Another program's locks: see dlmlock.c. More commands by send(), a line each."""
        return self.popen(f"exec {shlex.join([str(tools.helpers() / 'dlmlock'), lockspace, *commands])}", stdin=True)

    # --- the DLM and lockspacefs on it ---

    def join(self, lockspace: str, timeout: float = 30) -> None:
        """What an administrator would do; the lockspace then exists on this node."""
        self.run(f"dlm_tool join {shlex.quote(lockspace)}", timeout, check=True)

    def leave(self, lockspace: str, timeout: float = 30) -> None:
        self.run(f"dlm_tool leave {shlex.quote(lockspace)}", timeout, check=True)

    def stop_lockspace(self, lockspace: str) -> None:
        """As in recovery: lock requests in it block on this node until start_lockspace()."""
        self._control(lockspace, 0)

    def start_lockspace(self, lockspace: str) -> None:
        self._control(lockspace, 1)

    def _control(self, lockspace: str, run: int) -> None:
        self.run(f"echo {run} >/sys/kernel/dlm/{shlex.quote(lockspace)}/control", check=True)

    def mount_lockspacefs(self, options: str = "", mountpoint: str = "/dlm", engine: str = "dlm", strict: bool = True,
                          timeout: float = 30, program: Optional[Path] = None) -> LockspacefsDaemon:
        """Mount for everybody. @options: more of them, as after -o. @strict: a warning ends the daemon."""
        daemon = program or tools.daemon()
        all_options = ",".join(filter(None, [f"engine={engine}", "allow_other", options]))
        words = [str(daemon), "-f", "-o", all_options, mountpoint]
        environment = "G_MESSAGES_DEBUG=all G_DEBUG=fatal-warnings " if strict else ""
        where = shlex.quote(mountpoint)
        job = self.popen(f"mkdir -p {where} && {environment}exec {shlex.join(words)}")
        mounted = f"until grep -q ' '{where}' fuse' /proc/mounts; do [ -d /proc/{job.pid} ] || exit 1; sleep 0.01; done"
        if self.run(mounted, timeout).returncode != 0:
            raise LabError(f"node {self.number}: {daemon} did not mount: {job.wait(timeout).stdout}{job.err()}")
        return LockspacefsDaemon(self, job, mountpoint)


class Cluster:
    """Nodes 1 to @size and the network between them.

    kernel     packaged (Debian's, without debugfs), debugfs (see build-kernel), or the path of one
    mem        of each node
    cluster    none, corosync or dlm: what a node starts; or systemd: it is booted by that, and has corosync.service
               and dlm.service to start. The packaged kernel is the one for it
    token      corosync's token timeout in milliseconds; recovery after a crash follows it
    quorum     dlm_controld's --enable_quorum_lockspace
    modules    further modules for the packaged kernel, as fs/ocfs2/dlmfs/ocfs2_dlmfs, with commas
    directories  of the host that nodes are to see although they lie below /tmp, /run, /mnt, /root, /var/log
    """

    def __init__(self, size: int, *, kernel: str = "packaged", mem: str = "192M", cluster: str = "dlm",
                 token: int = 500, quorum: int = 1, modules: str = "", directories: Sequence[Union[str, Path]] = (),
                 state: Optional[Path] = None, persist: bool = False):
        if not 1 <= size <= 32:
            raise LabError("a cluster has 1 to 32 nodes")
        self.size = size
        self.kernel = kernel
        self.mem = mem
        self.cluster = cluster
        self.token = token
        self.quorum = quorum
        self.modules = modules
        self.directories = [str(directory) for directory in directories]
        self.persist = persist
        unique = f"lockspacefs-lab-{uuid.uuid4().hex[:12]}"
        self.state = Path(state or os.path.join(tempfile.gettempdir(), unique)).absolute()
        self.nodes = [Node(self, i) for i in range(1, size + 1)]
        self._children: dict[str, subprocess.Popen] = {}
        self._keeper: Optional[subprocess.Popen] = None
        if set(" ,\t\n") & set(str(self.state)):
            raise LabError(f"{self.state}: blanks and commas cannot stand on a kernel's command line")

    @classmethod
    def find(cls, state: Path) -> "Cluster":
        """The cluster that a program has left running there."""
        try:
            saved = json.loads((state / "cluster.json").read_text())
        except FileNotFoundError:
            raise LabError("no cluster is up") from None
        return cls(**saved, state=state, persist=True)

    def node(self, number: int) -> Node:
        if not 1 <= number <= self.size:
            raise LabError(f"no node {number}: they are 1 to {self.size}")
        return self.nodes[number - 1]

    def split(self, *sides: Sequence[Node]) -> None:
        """The network falls apart: each of these sides is alone, and the other nodes are another one. One without
        quorum is thrown out after unite(), as a node that was cut."""
        self.unite()
        for number, nodes in enumerate(sides, 1):
            for node in nodes:
                self.ask_switch(f"side {node.number} {number}")

    def unite(self) -> None:
        for node in self.nodes:
            self.ask_switch(f"side {node.number} 0")

    # --- its life ---

    def up(self, timeout: float = 60) -> None:
        """Start all nodes and wait until they form a cluster. When that fails, nothing is left of it."""
        tools.check_packages()
        tools.guest_kernel(self.kernel)
        try:
            self.state.mkdir(parents=True)
        except FileExistsError:
            raise LabError(f"already up in {self.state}") from None
        try:
            (self.state / "uml").mkdir()
            (self.state / "cluster.json").write_text(json.dumps(self._saved()))
            self._start_keeper()
            self.spawn("switch", [str(tools.helpers() / "labswitch"), str(self.state)])
            wait_until((self.state / "switch.ctl").exists, 10, "labswitch starts")
            self._boot_all(timeout)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End every process and remove every file. Harmless when there are none."""
        sessions.end_all(self.state)
        for child in self._children.values():
            child.wait()
        self._children.clear()
        if self._keeper:
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper = None

    def __enter__(self) -> "Cluster":
        self.up()
        return self

    def __exit__(self, *exc) -> None:
        self.down()

    def join(self, lockspace: str, timeout: float = 30) -> None:
        """The lockspace then exists on every node that runs."""
        jobs = [node.popen(f"dlm_tool join {shlex.quote(lockspace)}") for node in self.nodes if node.runs()]
        for job in jobs:
            done = job.wait(timeout)
            if done.returncode != 0:
                raise LabError(f"{job} failed with {done.returncode}\n{done.stdout}{done.stderr}")

    def repair(self, timeout: float = 60) -> None:
        """Make it whole again, whatever was done to it. Unless every node sees every other, all start afresh."""
        for node in self.nodes:
            node.heal()
        self.unite()
        if all(self._is_whole(node) for node in self.nodes):
            return
        for node in self.nodes:
            node.crash()
        self._boot_all(timeout)

    def _is_whole(self, node: Node) -> bool:
        if not node.runs() or node.frozen:
            return False
        try:
            return len(node.members(timeout=5)) == self.size
        except LabError:
            return False

    def _boot_all(self, timeout: float) -> None:
        for node in self.nodes:
            node.boot(members=self.size)
        for node in self.nodes:
            node.wait_ready(timeout)

    # --- what its nodes need ---

    def _saved(self) -> dict:
        return {key: getattr(self, key)
                for key in ("size", "kernel", "mem", "cluster", "token", "quorum", "modules", "directories")}

    def environment(self) -> dict[str, object]:
        """Of labinit, and so of all that runs on a node."""
        daemon = tools.daemon()
        build = daemon.parent.parent            # the programs of the tests are there too
        directories = [tools.helpers(), tools.PROJECT, build, daemon.parent, *self.directories]
        return {
            "LAB_NODES": self.size, "LAB_CLUSTER": self.cluster, "LAB_TOKEN": self.token, "LAB_QUORUM": self.quorum,
            "LAB_MODULES": self.modules, "LAB_DIRS": ":".join(str(d) for d in directories if os.path.isdir(d)),
            "LOCKSPACEFS": daemon, "PYTHONDONTWRITEBYTECODE": 1,
        }

    def spawn(self, name: str, argv: list[str], cpu: Optional[int] = None) -> None:
        self._children[name] = sessions.spawn(self.state, name, argv, self.state / f"{name}.log", cpu)

    def end(self, name: str) -> None:
        sessions.end(self.state, name)
        if child := self._children.pop(name, None):
            child.wait()

    def _start_keeper(self) -> None:
        if not self.persist:
            command = [sys.executable, sessions.__file__, str(self.state)]
            self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def ask_switch(self, order: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.bind("")                          # any address, for the answer
            s.settimeout(10)
            s.connect(str(self.state / "switch.cmd"))
            s.send(order.encode())
            answer = s.recv(64)
        if answer != b"ok":
            raise LabError(f"the switch says {answer!r} to {order!r}")
