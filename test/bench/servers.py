"""What is measured, and what it is measured against: each mounted or started here, and ended here.

A server has the name that it goes by in tables, and cases(): what
bench-client is to do there. Those that are processes can be pinned.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lockspacefs_test import Daemon, daemon_path, make_lockspace, status, touch, umount, wait_until  # noqa: E402, F401

SPIN_US = 20                                    # the default of lockspacefs

# What is timed on a file system: the operation of bench-client, and on which file below the mount.
OPERATIONS = {
    "open+close": ("open", "web/open"),
    "flock+unlock": ("flock", "web/flock"),
    "open+flock+unlock+close": ("open-flock", "web/open-flock"),
    "open+close in .ex": ("open", "web/.ex/mode"),
    "fcntl+unlock": ("fcntl", "web/fcntl"),
    "read 32 bytes": ("read", "web/.ex/read"),
    "write 32 bytes": ("write", "web/.ex/write"),
    "stat": ("stat", "web/stat"),
}


def helper(name):
    """A program of the build that is measured."""
    build = daemon_path().resolve().parent.parent
    return build / "test" / name if name in ("hold", "waiters") else build / "test/bench" / name


def threads_of(pid):
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


class Server:
    """Has a name and, if it is a process, a pid."""

    name = None
    pid = None

    def pin(self, cpus):
        if self.pid:
            for thread in threads_of(self.pid):
                os.sched_setaffinity(thread, cpus)


class FileSystem(Server):
    mountpoint = None

    def case(self, what):
        operation, path = OPERATIONS[what]
        return f"{operation}={self.mountpoint / path}"


class LockspaceFs(Daemon, FileSystem):
    """The daemon on the engine local, with the lockspace web."""

    def __init__(self, directory, *options, name="lockspacefs", program=None):
        directory.mkdir(parents=True)
        super().__init__(directory, *options)
        self.name = name
        self._other_program = program

    def _program(self):
        return self._other_program or super()._program()

    def start(self):
        super().start()
        make_lockspace(self.mountpoint, "web")
        return self


class NullFs(Daemon, FileSystem):
    """The file system that does nothing."""

    name = "nullfs"

    def __init__(self, directory):
        directory.mkdir(parents=True)
        super().__init__(directory)

    @property
    def command(self):
        return [str(helper("nullfs")), str(self.mountpoint)]


class SpinningNullFs(NullFs):
    """The same, reading as lockspacefs does."""

    name = "nullfs, spinning"

    def __init__(self, directory, options=()):
        super().__init__(directory)
        spins = [option.removeprefix("spin=") for option in options if option.startswith("spin=")]
        self._spin_us = 0 if len(os.sched_getaffinity(0)) == 1 else [SPIN_US, *spins][-1]

    @property
    def command(self):
        return [super().command[0], "-s", str(self._spin_us), str(self.mountpoint)]


class TmpFs(FileSystem):
    """The kernel's own locks, on a tmpfs."""

    name = "tmpfs"

    def __init__(self, directory):
        directory.mkdir(parents=True)
        self.mountpoint = directory

    def __enter__(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "bench", self.mountpoint], check=True)
        (self.mountpoint / "web/.ex").mkdir(parents=True)
        return self

    def __exit__(self, kind, value, trace):
        umount(self.mountpoint)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class LockServer(Server):
    """One of the lock servers that listen on loopback, with its data in a directory of its own."""

    program = None

    def __init__(self, directory):
        directory.mkdir(parents=True)
        self.directory = directory
        self.port = free_port()
        self._process = None

    @classmethod
    def is_installed(cls):
        return shutil.which(cls.program) is not None

    @property
    def pid(self):
        return self._process.pid

    def case(self, what):
        return f"{self.name}={self.port}"

    def arguments(self):
        raise NotImplementedError

    def __enter__(self):
        with open(self.directory / "log", "wb") as log:
            self._process = subprocess.Popen([self.program, *self.arguments()], cwd=self.directory,
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(lambda: answers(self.port) or self._process.poll() is not None, what=f"{self.name}'s port")
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.program} has ended:\n{(self.directory / 'log').read_text(errors='replace')}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, value, trace):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Redis(LockServer):
    """Without persistence."""

    name = "redis"
    program = "redis-server"

    def arguments(self):
        return ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self.directory)]


class Etcd(LockServer):
    """One member, with its log on the disk of the temporary directory, as it comes."""

    name = "etcd"
    program = "etcd"

    def arguments(self):
        clients, peers = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{free_port()}"
        return ["--name", "bench", "--data-dir", str(self.directory / "data"),
                "--listen-client-urls", clients, "--advertise-client-urls", clients,
                "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
                "--initial-cluster", f"bench={peers}"]


@contextlib.contextmanager
def file_systems(directory, options=(), beside=None):
    """lockspacefs, another build of it if there is one, and what they stand on."""
    with contextlib.ExitStack() as stack:
        servers = [LockspaceFs(directory / "lockspacefs", *options), NullFs(directory / "nullfs"),
                   SpinningNullFs(directory / "spinning", options), TmpFs(directory / "tmpfs")]
        if beside:
            servers.insert(1, LockspaceFs(directory / "beside", *options, name="beside", program=beside))
        yield [stack.enter_context(server) for server in servers]
