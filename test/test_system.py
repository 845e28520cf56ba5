"""What is installed beside the program: the unit of systemd, what systemd is told, and the agent of Pacemaker."""

import array
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from lockspacefs_test import (TIMEOUT, Daemon, daemon_path, is_mounted, make_lockspace, opened, umount, wait_for_exit,
                              wait_until)

SCHEMAS = "/usr/share/resource-agents"
OCF_SUCCESS, OCF_GENERIC, OCF_ARGS, OCF_UNIMPLEMENTED, OCF_INSTALLED, OCF_CONFIGURED, OCF_NOT_RUNNING = 0, 1, 2, 3, 5, 6, 7


@pytest.fixture(scope="module")
def installed():
    """/usr/local as `meson install` makes it; what names the place of the program names where it is now."""
    root = Path(tempfile.mkdtemp(prefix="lockspacefs-"))
    root.chmod(0o755)
    build = daemon_path().resolve().parent.parent
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", root], capture_output=True, check=True)
    place = root / "usr/local"
    for name in ["lib/systemd/system/lockspacefs.service", "lib/ocf/resource.d/lockspacefs/lockspacefs"]:
        text = (place / name).read_text()
        assert "/usr/local/sbin/lockspacefs" in text
        (place / name).write_text(text.replace("/usr/local/sbin", str(place / "sbin")))
    yield place
    shutil.rmtree(root)


# --- systemd ---------------------------------------------------------------------

def test_everything_is_in_its_place(installed):
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if not path.is_dir()}
    assert {"sbin/lockspacefs", "sbin/mount.lockspacefs", "sbin/mount.fuse.lockspacefs", "sbin/umount.fuse.lockspacefs",
            "lib/systemd/system/lockspacefs.service", "lib/modules-load.d/lockspacefs.conf", "lib/tmpfiles.d/lockspacefs.conf",
            "lib/ocf/resource.d/lockspacefs/lockspacefs"} <= found
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


# --- Pacemaker -------------------------------------------------------------------

class Agent:
    def __init__(self, installed, directory, options):
        self.program = installed / "lib/ocf/resource.d/lockspacefs/lockspacefs"
        self.mountpoint = directory / "the locks"
        self.environment = {"OCF_ROOT": "/usr/lib/ocf", "OCF_RESOURCE_INSTANCE": directory.name, "OCF_RESOURCE_TYPE": "lockspacefs",
                            "OCF_RESKEY_mountpoint": str(self.mountpoint), "OCF_RESKEY_options": options,
                            "HA_RSCTMP": str(directory), "HA_logfile": str(directory / "log"), "HA_LOGFACILITY": "none",
                            "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def start_action(self, action, **parameters):
        return subprocess.Popen(["sh", self.program, *action.split()], env={**os.environ, **self.environment, **parameters},
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, action, **parameters):
        """Its exit status and what it says."""
        process = self.start_action(action, **parameters)
        said = process.communicate(timeout=TIMEOUT)
        return process.returncode, "".join(said)

    def check(self, action, expected=OCF_SUCCESS, **parameters):
        status, said = self.run(action, **parameters)
        assert status == expected, said
        return said

    def pid(self):
        return int(re.search(r"^pid (\d+)$", (self.mountpoint / ".status").read_text(), re.M)[1])


@pytest.fixture
def agent(installed, directory, engine):
    agent = Agent(installed, directory, f"engine={engine},allow_other")
    yield agent
    agent.run("stop", OCF_RESKEY_CRM_meta_timeout="31000")
    while is_mounted(agent.mountpoint):
        umount(agent.mountpoint, lazily=True)


def test_the_agents_meta_data_is_valid(agent, directory):
    (directory / "meta.xml").write_text(agent.check("meta-data"))
    for schema in [["--relaxng", f"{SCHEMAS}/metadata.rng"], ["--dtdvalid", f"{SCHEMAS}/ra-api-1.dtd"]]:
        done = subprocess.run(["xmllint", "--noout", *schema, directory / "meta.xml"], capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stderr


def test_ocf_tester_passes(agent):
    done = subprocess.run(["ocf-tester", "-n", "locks", "-o", f"mountpoint={agent.mountpoint.parent}/dlm",
                           "-o", f"options={agent.environment['OCF_RESKEY_options']}", agent.program],
                          capture_output=True, text=True, timeout=2 * TIMEOUT, check=False,
                          env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    assert done.returncode == 0 and "passed all tests" in done.stdout, done


def test_start_monitor_stop(agent):
    agent.check("monitor", OCF_NOT_RUNNING)
    agent.check("stop")
    for _ in range(2):
        agent.check("start")                    # and once more, while it runs
        agent.check("monitor")
    pid = agent.pid()
    make_lockspace(agent.mountpoint)
    agent.check("stop")
    assert wait_for_exit(pid, 0) and not is_mounted(agent.mountpoint)
    agent.check("monitor", OCF_NOT_RUNNING)


@pytest.mark.parametrize("parameters, status, reason", [
    ({"OCF_RESKEY_mountpoint": "dlm"}, OCF_CONFIGURED, "not an absolute path"),
    ({"OCF_RESKEY_mountpoint": ""}, OCF_CONFIGURED, "not an absolute path"),
    ({"OCF_RESKEY_mountpoint": "/etc/passwd"}, OCF_ARGS, "not a directory"),
    ({"OCF_RESKEY_options": "engine=local,mode=rwx"}, OCF_CONFIGURED, "write permissions in octal"),
    ({"OCF_RESKEY_options": "enigne=local"}, OCF_CONFIGURED, "unknown option"),
    ({"OCF_RESKEY_options": "engine=paper"}, OCF_CONFIGURED, 'no engine "paper"'),
    ({"OCF_RESKEY_options": "engine=local,keep"}, OCF_CONFIGURED, "keep"),
])
def test_wrong_parameters(agent, parameters, status, reason):
    for action in ["validate-all", "start"]:
        assert reason in agent.check(action, status, **parameters)
    assert not is_mounted(agent.mountpoint)


def test_actions_that_there_are_none(agent):
    agent.check("promote", OCF_UNIMPLEMENTED)
    agent.check("", OCF_ARGS)
    assert "usage" in agent.check("usage")


def test_a_start_that_fails_says_why(agent):
    assert "cannot mount on" in agent.check("start", OCF_GENERIC, OCF_RESKEY_options="engine=local,context=nonsense")


def test_a_mount_that_is_dead_or_hangs_is_noticed(agent):
    agent.check("start")
    pid = agent.pid()
    os.kill(pid, signal.SIGSTOP)
    assert "does not answer" in agent.check("monitor", OCF_GENERIC)
    os.kill(pid, signal.SIGKILL)
    wait_for_exit(pid)
    assert "does not answer" in agent.check("monitor", OCF_GENERIC)
    agent.check("start")                        # takes the dead one away
    assert agent.pid() != pid
    agent.check("monitor")


def test_stop_ends_a_daemon_that_hangs(agent):
    agent.check("start")
    pid = agent.pid()
    os.kill(pid, signal.SIGSTOP)
    agent.check("stop", OCF_RESKEY_CRM_meta_timeout="31000")
    assert wait_for_exit(pid, 0) and not is_mounted(agent.mountpoint)


def test_stop_gives_holders_time(agent):
    agent.check("start")
    lockspace = make_lockspace(agent.mountpoint)
    with opened(lockspace / ".ex" / "job"):
        stop = agent.start_action("stop")
        wait_until(lambda: not is_mounted(agent.mountpoint))
        assert stop.poll() is None
    assert stop.wait(TIMEOUT) == OCF_SUCCESS
    stop.communicate()


def test_stop_succeeds_although_somebody_holds_a_lock(agent):
    """Else Pacemaker would fence the node."""
    agent.check("start")
    pid = agent.pid()
    fd = os.open(make_lockspace(agent.mountpoint) / ".ex" / "job", os.O_RDWR)
    agent.check("stop", OCF_RESKEY_CRM_meta_timeout="31000")
    assert wait_for_exit(pid, 0) and not is_mounted(agent.mountpoint)
    with contextlib.suppress(OSError):
        os.close(fd)
