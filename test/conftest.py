"""A mounted lockspacefs for every test, and nothing left behind after it.

A test of what is in one lockspace shares its mount with those of the same file: it gets it as it leaves it, empty
and unused. Whoever asks for `daemon`, or for `mount` without `lockspace`, has one of his own.

`--engine dlm` runs the same files inside one node of a running cluster.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

import lockspacefs_test
from inject import Injector
from lockspacefs_test import Daemon, end_children, is_in_use, make_again, opened, put, remove_lockspace, status, wait_until

TEST_TIMEOUT = float(os.environ.get("LOCKSPACEFS_TEST_LIMIT", "240"))   # seconds until a hanging mount is given up


def pytest_addoption(parser):
    parser.addoption("--engine", choices=["local", "dlm"], default="local", help="lock manager under the mount")
    parser.addoption("--daemon", metavar="PATH",
                     help="lockspacefs to test (default: $LOCKSPACEFS, build/src/lockspacefs)")
    parser.addoption("--helpers", metavar="DIR",
                     help="where race, waiters, owners, hold and cycles are (default: test/ of the daemon's build)")
    parser.addoption("--fuzz-seconds", type=int, default=8, metavar="N",
                     help="how long test_fuzz.py throws operations at a mount (default: 8)")
    parser.addoption("--fuzz-seed", type=int, default=1, metavar="N", help="which operations (default: 1)")


def pytest_configure(config):
    if config.getoption("--daemon"):
        os.environ["LOCKSPACEFS"] = os.path.abspath(config.getoption("--daemon"))
    os.umask(0o022)


def pytest_ignore_collect(collection_path, config):
    """What is about the kernel's devices has a name that says so."""
    return True if collection_path.name.endswith("_dlm.py") and config.getoption("--engine") != "dlm" else None


def pytest_sessionstart(session):
    if session.config.option.collectonly:
        return
    if not lockspacefs_test.daemon_path().exists():
        raise pytest.UsageError(f"no daemon at {lockspacefs_test.daemon_path()}: build it, or say --daemon PATH")
    if os.geteuid() != 0:
        raise pytest.UsageError("the tests act as several users: run them as root")


def pytest_report_header(config):
    return f"lockspacefs: {lockspacefs_test.daemon_path()}, engine {config.getoption('--engine')}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for daemon in Daemon.running:
            daemon.excused = True
            report.sections.append((f"log of lockspacefs at {daemon.mountpoint}", daemon.log[-20000:]))


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A daemon that does not answer would hang us in the kernel: it is killed in the end."""
    watchdog = threading.Timer(TEST_TIMEOUT, lambda: [daemon.process.kill() for daemon in Daemon.running])
    watchdog.daemon = True
    watchdog.start()
    yield
    watchdog.cancel()
    end_children()
    release_leftovers()


def release_leftovers():
    """On dlm a lockspace outlives a daemon that was killed: the next test would find it."""
    for device in Path("/dev/misc").glob("dlm_*"):
        if device.name != "dlm_plock":
            subprocess.run(["dlm_tool", "leave", device.name.removeprefix("dlm_")], timeout=60, check=False)


@pytest.fixture
def engine(request):
    """The name of the engine under test."""
    return request.config.getoption("--engine")


@pytest.fixture
def helpers(request):
    """The directory of the helper programs, built by test/meson.build."""
    given = request.config.getoption("--helpers")
    return Path(given) if given else lockspacefs_test.daemon_path().resolve().parent.parent / "test"


def make_directory():
    path = Path(tempfile.mkdtemp(prefix="lockspacefs-"))
    path.chmod(0o755)
    return path


@pytest.fixture
def directory():
    """An empty directory that every user may enter."""
    path = make_directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_daemon(directory, engine):
    """Start a daemon with these options; it is ended after the test."""
    with contextlib.ExitStack() as stack:
        def make(*options, **kwargs):
            place = directory / f"daemon-{len(list(directory.iterdir()))}"
            place.mkdir()
            return stack.enter_context(Daemon(place, *options, **{"engine": engine, **kwargs}))
        yield make


@pytest.fixture
def injector(directory, helpers):
    """Makes calls of a daemon fail that is started with its environment."""
    return Injector(directory, helpers / "libinject.so")


@pytest.fixture
def daemon(directory, engine):
    """lockspacefs mounted by root for everybody; unmounting ends it with status 0."""
    with Daemon(directory, engine=engine) as running:
        yield running


class SharedDaemon:
    """One daemon for the tests of a file. After each it is looked at as closely as an unmount would; one that is not
    as it was in the beginning fails the test, and the next test gets a new one."""

    def __init__(self, engine):
        self._engine = engine
        self._stack = contextlib.ExitStack()
        self._daemon = None

    def get(self):
        if self._daemon is not None and self._daemon.excused:   # a test with another daemon has failed
            self.end()
        if self._daemon is None:
            directory = make_directory()
            self._stack.callback(shutil.rmtree, directory)
            self._daemon = self._stack.enter_context(Daemon(directory, engine=self._engine))
        return self._daemon

    def check(self):
        if self._daemon.excused:                # the test has failed
            self.end()
            return
        try:
            end_children()
            self._daemon.check_log()
            mount = self._daemon.mountpoint
            assert not is_in_use(mount), f"something on {mount} is still open"
            for name in os.listdir(mount):      # what it made beside its lockspace
                remove_lockspace(mount / name)
            wait_until(lambda: os.listdir(mount) == [], what="an empty mount")
            # what the kernel has forgotten it tells when it pleases
            wait_until(lambda: [status(mount)[what] for what in ("files", "held", "waiting")] == [0, 0, 0], what="an idle mount")
        except BaseException:
            self._daemon.excused = True
            self.end()
            raise

    def end(self):
        """Unmounting ends it with status 0."""
        self._daemon = None
        self._stack.close()


@pytest.fixture(scope="module")
def shared_daemon(request):
    shared = SharedDaemon(request.config.getoption("--engine"))
    yield shared
    shared.end()


@pytest.fixture
def mount(request):
    """Where it is mounted."""
    if "daemon" in request.fixturenames or "lockspace" not in request.fixturenames:
        yield request.getfixturevalue("daemon").mountpoint
    else:
        shared = request.getfixturevalue("shared_daemon")
        yield shared.get().mountpoint
        shared.check()


@pytest.fixture
def lockspace(mount, engine):
    """A lockspace that everybody may use, root's; removed by force after the test."""
    path = mount / "web"
    make_again(path, engine)                    # the last one may still be on its way out
    yield path
    end_children()
    remove_lockspace(path)


@pytest.fixture
def job(lockspace):
    """A lock file with a value."""
    put(lockspace / ".ex" / "job", b"42")
    return lockspace / "job"


@pytest.fixture
def fuse_device():
    """/dev/fuse as udev makes it: ordinary users may mount. One run of the tests at a time changes it."""
    with opened("/dev/fuse") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchmod(fd, 0o666)
        yield
        os.fchmod(fd, mode)
