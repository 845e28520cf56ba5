"""Where a soak runs: on this machine with the engine local, or on a cluster of guests with dlm. Both have mounts,
which start programs and whose daemon can be replaced.

    place.mounts[0].start(["client.py", …]) -> a Program
"""

import ctypes
import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

from actors import PYTHON
from cluster import Cluster, Output
from lockspacefs_test import Daemon, processes_with, trouble_in, wait_for_exit

SOON = 60                                       # seconds in which what must happen has to, on a busy machine
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18


def keep_mounts_to_ourselves():
    """A copy of our mount in the namespace of somebody who did unshare(1) meanwhile would keep the daemon from ending."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "a mount namespace of our own")


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_for_exit(pid, SOON)


# --- on this machine -------------------------------------------------------

class LocalProgram:
    """What it prints goes to a file; its children are in its process group."""

    def __init__(self, words, directory, name):
        self.output = Output(directory / f"{name}.out")
        self._errors = Output(directory / f"{name}.err")
        with open(self.output.path, "wb") as out, open(self._errors.path, "wb") as err:
            # Whoever ends us finds it by its arguments (give_up()): it must have them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
            try:
                self._process = subprocess.Popen([PYTHON, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                                 start_new_session=True,
                                                 preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self):
        return self._process.pid

    def errors(self):
        return self._errors.all()

    def signal(self, number):
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def status(self):
        return self._process.poll()

    def wait(self, timeout=SOON):
        self._process.wait(timeout)

    def forget(self):
        """Its output has been read."""
        self.output.path.unlink()
        self._errors.path.unlink()


class LocalMount:
    number = 1
    is_whole = True                             # its daemon runs

    def __init__(self, directory):
        self._directory = directory
        self._daemon = Daemon(directory, engine="local")
        self.path = self._daemon.mountpoint

    def mount(self):
        self._daemon.start()

    @property
    def daemon_pid(self):
        return self._daemon.pid

    def start(self, words, name):
        return LocalProgram(words, self._directory, name)

    def unmount(self):
        """What is wrong with how it ended."""
        try:
            self._daemon.stop(SOON)
        except (AssertionError, OSError) as error:
            return [str(error)]
        return trouble_in(self._daemon.log)

    def give_up(self):
        """Whatever state all is in; a program may have been started and not be known, as we were interrupted."""
        for pid in map(int, processes_with(str(self._directory))):
            if not self._daemon.process or pid != self._daemon.pid:
                end(pid)
        if self._daemon.process:
            self._daemon.excused = True
            self._daemon.__exit__(None, None, None)


class LocalPlace:
    engine = "local"
    pause, rare = 0.002, 1                      # of a client: part of two CPUs is left
    is_disturbed_by_faults = False              # a client is killed: the others go on

    def __init__(self):
        self._directory = Path(tempfile.mkdtemp(prefix="lockspacefs-soak-"))
        self._directory.chmod(0o755)
        self.witness = self._directory / "witness"
        self.witness_at = self.witness          # as the clients see it
        self.mounts = [LocalMount(self._directory)]

    def up(self):
        keep_mounts_to_ourselves()
        self.mounts[0].mount()

    def down(self):
        self.mounts[0].give_up()
        subprocess.run(["rm", "-rf", "--one-file-system", self._directory], check=False)


# --- on a cluster ----------------------------------------------------------

class ClusterProgram:
    def __init__(self, job):
        self._job = job
        self.output = job.stdout

    @property
    def pid(self):
        return self._job.pid

    def errors(self):
        return self._job.err()

    def signal(self, number):
        if self.status() is None:
            self._job.kill(number)

    def status(self):
        return self._job.poll()

    def wait(self, timeout=SOON):
        self._job.wait(timeout)

    def forget(self):
        """The files go with the node."""


class ClusterMount:
    path = Path("/dlm")

    def __init__(self, place, node):
        self._place = place
        self.node = node
        self.number = node.number
        self._daemon = None
        self.is_whole = False                   # the node and its daemon run

    def mount(self):
        self._daemon = None
        witness = shlex.quote(str(self._place.witness_at))
        self.node.run(f"mkdir -p {witness} && {{ mountpoint -q {witness} || "
                      f"mount -t hostfs -o {shlex.quote(str(self._place.witness))} none {witness}; }}", check=True)
        self._daemon = self.node.mount_lockspacefs(strict=False, timeout=SOON)
        self.is_whole = True

    @property
    def daemon_pid(self):
        return self._daemon.job.pid

    def start(self, words, name):
        return ClusterProgram(self.node.popen(f"exec {shlex.join([PYTHON, *words])}"))

    def unmount(self):
        try:
            status = self._daemon.unmount(SOON)
        except Exception as error:
            return [f"node {self.number}: {error}"]
        found = trouble_in(self._daemon.log())
        return found if status == 0 else [f"node {self.number}: lockspacefs ended with status {status}", *found]

    def signal_daemon(self, number):
        self._daemon.signal(number)

    def mount_again(self):
        """The daemon was killed, or never came up."""
        if self._daemon:
            self._daemon.kill()
        else:
            self.node.run(f"umount -l {self.path}", SOON)
        self.mount()


class ClusterPlace:
    engine = "dlm"
    pause, rare = 0.01, 10
    is_disturbed_by_faults = True               # recovery stops everybody's locks
    size = 3

    def __init__(self):
        self._directory = Path(tempfile.mkdtemp(prefix="lockspacefs-soak-"))
        self.witness = self._directory / "witness"
        self.witness_at = Path("/run/witness")
        self.cluster = Cluster(self.size, kernel="debugfs", mem="256M")
        self.mounts = [ClusterMount(self, node) for node in self.cluster.nodes]

    def up(self):
        self.cluster.up()
        for mount in self.mounts:
            mount.mount()

    def down(self):
        self.cluster.down()
        subprocess.run(["rm", "-rf", self._directory], check=False)


PLACES = {"local": LocalPlace, "cluster": ClusterPlace}
