"""What is installed beside the program: the unit of systemd, and what systemd is told."""

import array
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from lockspacefs_test import TIMEOUT, Daemon, daemon_path, make_lockspace, opened


@pytest.fixture(scope="module")
def installed():
    """/usr/local as `meson install` makes it; what names the place of the program names where it is now."""
    root = Path(tempfile.mkdtemp(prefix="lockspacefs-"))
    root.chmod(0o755)
    build = daemon_path().resolve().parent.parent
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", root], capture_output=True, check=True)
    place = root / "usr/local"
    for name in ["lib/systemd/system/lockspacefs.service"]:
        text = (place / name).read_text()
        assert "/usr/local/sbin/lockspacefs" in text
        (place / name).write_text(text.replace("/usr/local/sbin", str(place / "sbin")))
    yield place
    shutil.rmtree(root)


# --- systemd ---------------------------------------------------------------------

def test_everything_is_in_its_place(installed):
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if not path.is_dir()}
    assert {"sbin/lockspacefs", "sbin/mount.lockspacefs", "sbin/mount.fuse.lockspacefs", "sbin/umount.fuse.lockspacefs",
            "lib/systemd/system/lockspacefs.service", "lib/modules-load.d/lockspacefs.conf", "lib/tmpfiles.d/lockspacefs.conf"} <= found
    for name in ["lockspacefs", "mount.lockspacefs"]:
        done = subprocess.run([installed / "sbin" / name, "-V"], capture_output=True, text=True, timeout=TIMEOUT, check=True)
        assert done.stdout.startswith("lockspacefs ")


def test_the_unit_is_clean(installed):
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", installed / "lib/systemd/system/lockspacefs.service"],
                          capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_mount_point_is_made_and_a_mount_left_alone(installed, directory):
    config = installed / "lib/tmpfiles.d/lockspacefs.conf"
    for mode in [0o755, 0o1777]:
        subprocess.run(["systemd-tmpfiles", "--create", f"--root={directory}", config], timeout=TIMEOUT, check=True)
        assert (directory / "dlm").stat().st_mode & 0o7777 == (0o755 if mode == 0o755 else 0o700)
        (directory / "dlm").chmod(0o700)


class ServiceManager:
    """The other end of sd_notify(3)."""

    def __init__(self, directory):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "notify"))
        self.socket.settimeout(TIMEOUT)
        self.environment = {"NOTIFY_SOCKET": str(directory / "notify")}
        self.kept = None

    def hear(self):
        """One message, as a dict."""
        data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(4))
        for _, _, passed in ancillary:
            self.kept, = array.array("i", passed)
        return dict(line.split("=", 1) for line in data.decode().splitlines())

    def wait_for(self, **wanted):
        while not wanted.items() <= (said := self.hear()).items():
            pass
        return said


@pytest.fixture
def manager(directory, monkeypatch):
    manager = ServiceManager(directory)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.environment["NOTIFY_SOCKET"])
    yield manager
    manager.socket.close()
    if manager.kept is not None:
        os.close(manager.kept)


def test_systemd_is_told(directory, engine, manager):
    with Daemon(directory, engine=engine) as daemon:
        assert manager.hear() == {"FDSTORE": "1", "FDNAME": "made"}
        said = manager.hear()
        assert said["READY"] == "1" and re.fullmatch(f"engine {engine}, node \\d+, lockspaces: none", said["STATUS"])
        for n in range(9):
            make_lockspace(daemon.mountpoint, f"ls{n}")
        empty = said["STATUS"].removesuffix("none")
        manager.wait_for(STATUS=empty + "ls0 ls1 ls2 ls3 ls4 ls5 ls6 ls7 and 1 more")
        for n in range(8):
            (daemon.mountpoint / f"ls{n}").rmdir()
        manager.wait_for(STATUS=empty + "ls8")
        # what a successor would find
        assert os.pread(manager.kept, 1000, 0) == b"ls8\n"
        with opened(daemon.mountpoint / "ls8" / ".ex" / "job"):
            daemon.signal(signal.SIGTERM)
            assert manager.wait_for(STOPPING="1")["STATUS"].startswith("ending: 1 files are open")
        assert manager.wait_for(STOPPING="1")["STATUS"] == "unmounted, releasing lockspaces"
        assert daemon.wait() == 0


def test_signs_of_life(directory, engine, manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    with Daemon(directory, engine=engine):
        for _ in range(5):
            manager.wait_for(WATCHDOG="1")
