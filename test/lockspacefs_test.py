"""What the tests of the mount share: the daemon, other processes, other users.

Nothing here sleeps in the hope that something has happened by then. Events
that have a signal are waited for; wait_until() polls what has none, bounded.
Whatever a test starts is ended by Daemon.__exit__ or by end_children(), which
conftest.py runs after every test.
"""

import contextlib
import ctypes
import errno
import gc
import os
import pickle
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
TIMEOUT = float(os.environ.get("LOCKSPACEFS_TEST_TIMEOUT", "30"))   # seconds until an event counts as lost

NOBODY = 65534                                  # two ordinary users, and groups of nobody else's
SOMEBODY = 12345
GROUP = 23456
OTHER_GROUP = 23457

MODES = ["nl", "cr", "cw", "pr", "pw", "ex"]    # the mode directories, without their dot
VALUE_LEN = 32

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH, _MNT_EXPIRE = 2, 4
_PR_SET_PDEATHSIG = 1
_IN_OPEN = 0x20
_TROUBLE = re.compile(r"(WARNING|CRITICAL|ERROR) \*\*|Sanitizer|runtime error:")


# --- waiting ---------------------------------------------------------------

def wait_until(predicate, timeout=TIMEOUT, what=None):
    """Poll until predicate() is true and return what it said; fail with the last answer."""
    deadline = time.monotonic() + timeout
    while True:
        seen = predicate()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'that'} did not come within {timeout} s; last seen: {seen!r}")
        time.sleep(0.005)


def wait_for_exit(pid, timeout=TIMEOUT):
    """Wait for the end of a process, a child of ours or not; False: still running."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(timeout * 1000))
    finally:
        os.close(pidfd)


def wait_for_poll(fd, events, timeout=TIMEOUT):
    """Wait for @events on a descriptor; the events that poll(2) reported, 0 after @timeout seconds."""
    poller = select.poll()
    poller.register(fd, events)
    ready = poller.poll(timeout * 1000)
    return ready[0][1] if ready else 0


# --- errors ----------------------------------------------------------------

@contextlib.contextmanager
def raises_errno(*errnos):
    """The body fails with an OSError that has one of these errnos."""
    names = " or ".join(errno.errorcode[e] for e in errnos)
    try:
        yield
    except OSError as error:
        if error.errno not in errnos:
            seen = errno.errorcode.get(error.errno, error.errno)
            raise AssertionError(f"expected {names}, got {seen}: {error}") from error
    else:
        raise AssertionError(f"expected {names}, got no error")


def errno_of(function, *args):
    """The errno with which a call failed, 0 if it did not."""
    try:
        function(*args)
    except OSError as error:
        return error.errno
    return 0


# --- files -----------------------------------------------------------------

@contextlib.contextmanager
def opened(path, flags=os.O_RDWR, mode=0o666, dir_fd=None):
    """A descriptor, closed at the end of the block."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def put(path, data):
    """Open for writing, write once, close: what `printf` with a redirection does."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        assert os.write(fd, data) == len(data)


def get(path):
    """The whole content, by read(2) until the end."""
    content = b""
    with opened(path, os.O_RDONLY) as fd:
        while True:
            data = os.read(fd, 65536)
            if not data:
                return content
            content += data


def touch(path):
    with opened(path, os.O_WRONLY | os.O_CREAT):
        pass


@contextlib.contextmanager
def never_opened(path):
    """Nobody opens it in the body. Whoever opens a FIFO there need not wait for another to do so."""
    watch = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with opened(path, os.O_RDWR):
            assert _libc.inotify_add_watch(watch, os.fsencode(path), _IN_OPEN) > 0
            yield
            assert not wait_for_poll(watch, select.POLLIN, 0), f"{path} was opened"
            with opened(path, os.O_RDWR):
                assert wait_for_poll(watch, select.POLLIN, 0), "it would not have been seen"
    finally:
        os.close(watch)


@contextlib.contextmanager
def umask(mask):
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def make_lockspace(mount, name="web", mode=0o777):
    """mkdir with exactly these permissions."""
    with umask(0):
        (Path(mount) / name).mkdir(mode)
    return Path(mount) / name


def make_again(lockspace, engine):
    """On dlm, mkdir may say EBUSY while the old one is being released."""
    wait_until(lambda: (result := errno_of(make_lockspace, lockspace.parent, lockspace.name)) == 0 or engine == "local" or result != errno.EBUSY)
    assert lockspace.is_dir()


def remove_lockspace(lockspace):
    """Forced rmdir, after what another forced one has left to be done; one that is gone already is fine."""
    def is_done():
        try:
            put(lockspace / ".force", b"1")
            os.rmdir(lockspace)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ESTALE):
                raise
            return error.errno != errno.EBUSY
        return True
    wait_until(is_done, what=f"a rmdir of {lockspace}")


def is_free_and_removed(lockspace):
    """It is gone now; what an interrupted mkdir or rmdir of it left to be done is finished, and nobody had a lock there."""
    try:
        with contextlib.suppress(FileExistsError):
            lockspace.mkdir()                   # EBUSY while it comes or goes
        if locks(lockspace):
            return False
        remove_lockspace(lockspace)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ESTALE):
            raise
        return False
    return True


def locks(lockspace):
    """`.locks` as a list of dicts, keyed by its header line: resource (as in
    file names), state, mode, wanted, node, pid, command, by, seconds."""
    header, *lines = get(Path(lockspace) / ".locks").decode(errors="surrogateescape").splitlines()
    table = []
    for line in lines:
        row = dict(zip(header.split("\t"), line.split("\t"), strict=True))
        row["node"], row["pid"], row["seconds"] = int(row["node"]), int(row["pid"]), float(row["seconds"])
        table.append(row)
    return table


def waiters(lockspace, resource=None):
    """The lines of `.locks` that wait or convert, of one resource or of all."""
    return [row for row in locks(lockspace)
            if row["state"] != "held" and resource in (None, row["resource"])]


def wait_for_waiters(lockspace, count=1, resource=None):
    """Until @count callers are queued, by `.locks`; their lines."""
    return wait_until(lambda: len(found := waiters(lockspace, resource)) >= count and found,
                      what=f"{count} waiter(s) in {lockspace}/.locks")


def status(mount):
    """`.status` as a dict; what looks like a number is one."""
    pairs = {}
    for line in get(Path(mount) / ".status").decode().splitlines():
        name, value = line.split(" ", 1)
        assert name not in pairs
        pairs[name] = int(value) if value.isdigit() else value
    return pairs


def copy_of_the_tree(directory):
    """The project's files below a directory, without what is built and without git's own."""
    def ignored(path, names):
        return [name for name in names if name in (".git", "__pycache__", ".pytest_cache")
                or Path(path) == PROJECT and name.startswith("build")]

    return shutil.copytree(PROJECT, directory / "tree", ignore=ignored, symlinks=True)


# --- other users -----------------------------------------------------------

@contextlib.contextmanager
def as_user(uid, gid=None, groups=()):
    """This process acts as that user for a while (effective ids only)."""
    old_groups = os.getgroups()
    os.setgroups(list(groups))
    os.setegid(uid if gid is None else gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(old_groups)


def become_user(uid, gid=None, groups=()):
    """For good, in a process of its own."""
    gid = uid if gid is None else gid
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def run_as(uid, what, gid=None, groups=(), **kwargs):
    """As that user: call a Python function in a forked process (its result or
    its exception comes back), or run a command line (a CompletedProcess)."""
    if callable(what):
        return Child(lambda peer: what(), uid=uid, gid=gid, groups=groups).join()
    return subprocess.run(what, user=uid, group=uid if gid is None else gid, extra_groups=list(groups),
                          capture_output=True, text=True, timeout=TIMEOUT, check=False, **kwargs)


def shell(command, cwd=None, **kwargs):
    """Run a line of sh; a CompletedProcess with text output."""
    return subprocess.run(["sh", "-c", command], cwd=cwd, capture_output=True, text=True,
                          timeout=TIMEOUT, check=False, **kwargs)


# --- other processes -------------------------------------------------------

def processes_with(word):
    """Processes that were started with that word."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(word) in cmdline.read_bytes():
                found.append(cmdline.parent.name)
        except OSError:
            continue
    return found


def process_state(pid):
    """The letter in /proc/PID/stat: R runs, S sleeps, T is stopped, D cannot be killed."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


_children = []


class Peer:
    """One end of a conversation between a test and its Child: say() and
    wait_for() pair up in order, whatever the direction."""

    def __init__(self, channel):
        self._channel = channel

    def say(self, message="go"):
        self._channel.sendall(pickle.dumps(("said", message)))

    def _receive(self, timeout):
        self._channel.settimeout(timeout)
        try:
            data = self._channel.recv(1 << 20)
        except TimeoutError:
            raise AssertionError(f"no word from the other side within {timeout} s") from None
        except ConnectionError:
            data = b""
        return pickle.loads(data) if data else ("closed", None)

    def wait_for(self, message=None, timeout=TIMEOUT):
        """The next message, which must be @message unless that is None."""
        kind, said = self._receive(timeout)
        if kind == "failed":
            raise said
        assert kind == "said", f"waited for {message!r}, the other side has {kind}: {said!r}"
        assert message is None or said == message, f"waited for {message!r}, got {said!r}"
        return said

    def has_said(self, timeout=0):
        """Is there a message (or an end) to be received?"""
        return bool(wait_for_poll(self._channel.fileno(), select.POLLIN, timeout))


class Child(Peer):
    """function(peer, *args) in a forked process, as another user if @uid is
    given. It has none of our descriptors but those in @keep, so that what we
    close is closed. join() has its result, or raises what it raised (an
    OSError keeps its errno)."""

    def __init__(self, function, *args, uid=None, gid=None, groups=(), keep=()):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self._ended = False
        self.exit_status = None                 # as of waitpid, once it has ended
        self.pid = os.fork()
        if self.pid == 0:
            _run_child(theirs, function, args, uid, gid, groups, keep)
        theirs.close()
        super().__init__(ours)
        _children.append(self)

    def signal(self, number):
        if not self._ended:
            os.kill(self.pid, number)

    def stop(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """SIGKILL, and it is gone with all it had open when this returns."""
        self.signal(signal.SIGKILL)
        self._reap()

    def join(self, timeout=TIMEOUT):
        """Its result or its exception; messages not asked for are skipped."""
        while True:
            kind, result = self._receive(timeout)
            if kind == "said":
                continue
            self._reap(timeout)
            if kind == "failed":
                raise result
            if kind == "closed":
                raise AssertionError(f"the child ended with wait status {self.exit_status} and no result")
            return result

    def _reap(self, timeout=TIMEOUT):
        if self._ended:
            return
        if not wait_for_exit(self.pid, timeout):
            raise AssertionError(f"child {self.pid} did not end within {timeout} s")
        self.exit_status = os.waitpid(self.pid, 0)[1]
        self._ended = True

    def end(self):
        """For teardown: whatever state it is in, it is gone afterwards."""
        if not self._ended:
            os.kill(self.pid, signal.SIGCONT)
            self.kill()
        self._channel.close()


def spawn(function, *args, **kwargs):
    return Child(function, *args, **kwargs)


def _run_child(channel, function, args, uid, gid, groups, keep):
    """The life of a Child, in the forked process. Does not return."""
    status_code = 1
    try:
        gc.freeze()                             # no destructor of the test's objects runs here
        gc.disable()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        first = 3
        for fd in sorted({channel.fileno(), *keep}):
            os.closerange(first, max(first, fd))
            first = max(first, fd + 1)
        os.closerange(first, 1 << 20)
        if uid is not None:
            become_user(uid, gid, groups)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        try:
            message = ("returned", function(Peer(channel), *args))
            status_code = 0
        except OSError as error:
            error.__traceback__ = None
            message = ("failed", error)
        except BaseException:                   # pytest's own exceptions among them
            message = ("failed", AssertionError("in the child:\n" + traceback.format_exc()))
        channel.settimeout(None)
        channel.sendall(pickle.dumps(message))
    finally:
        os._exit(status_code)


def end_children():
    while _children:
        _children.pop().end()


# --- the daemon ------------------------------------------------------------

def daemon_path():
    """The program under test: --daemon, $LOCKSPACEFS, or the build's."""
    return Path(os.environ.get("LOCKSPACEFS") or PROJECT / "build/src/lockspacefs")


def mounts(path):
    """The lines of mountinfo for a mount point, as (device, type, super options)."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as mountinfo:
        for line in mountinfo:
            fields = line.split()
            tail = fields[fields.index("-") + 1:]
            if re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]) == str(path):
                found.append((fields[2], tail[0], tail[2]))
    return found


def is_mounted(path):
    return bool(mounts(path))


def wait_until_mounted(path, pid=None, timeout=TIMEOUT):
    """Until something is mounted there, by mountinfo's own events; False: @pid has ended without."""
    deadline = time.monotonic() + timeout
    with open("/proc/self/mountinfo", "rb") as mountinfo, contextlib.ExitStack() as stack:
        poller = select.poll()
        poller.register(mountinfo, select.POLLPRI)
        if pid is not None:
            pidfd = os.pidfd_open(pid)
            stack.callback(os.close, pidfd)
            poller.register(pidfd, select.POLLIN)
        while not is_mounted(path):
            if pid is not None and wait_for_exit(pid, 0):
                return False
            left = deadline - time.monotonic()
            assert left > 0, f"nothing is mounted at {path} after {timeout} s"
            poller.poll(left * 1000)
    return True


def umount(path, lazily=False):
    """umount2(2), as root."""
    if _libc.umount2(os.fsencode(path), _MNT_DETACH if lazily else 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def is_in_use(path):
    """Would umount2(2) say EBUSY? Whoever looks at the mount next takes back the mark that this leaves."""
    assert _libc.umount2(os.fsencode(path), _MNT_EXPIRE) != 0
    number = ctypes.get_errno()
    assert number in (errno.EBUSY, errno.EAGAIN), os.strerror(number)
    return number == errno.EBUSY


@contextlib.contextmanager
def impostor(helpers, directory, *arguments):
    """A mount on directory/"dlm" that looks like ours, and shows what is in directory/"shown"."""
    shown, mountpoint = directory / "shown", directory / "dlm"
    shown.mkdir()
    mountpoint.mkdir()
    process = subprocess.Popen([helpers / "impostor", shown, mountpoint, *arguments], stdin=subprocess.DEVNULL)
    try:
        assert wait_until_mounted(mountpoint, process.pid)
        yield shown, mountpoint
    finally:
        process.kill()
        process.wait()
        if is_mounted(mountpoint):
            umount(mountpoint, lazily=True)


def trouble_in(log):
    """The lines of a daemon's log that it should not have written."""
    return [line for line in log.splitlines() if _TROUBLE.search(line)]


class Daemon:
    """lockspacefs in the foreground on directory/"dlm", its log in directory/"log".

    Options that begin with a dash are arguments, all others are mount
    options. `with Daemon(…)` ends it by unmounting, whatever happened, and
    fails if it warned or did not exit with status 0.
    """

    running = []                                # for conftest.py: whose log to show, whom to end

    def __init__(self, directory, *options, engine="local", user=None, allow_other=True, wait=True, environment=None):
        self.directory = Path(directory)
        self.mountpoint = self.directory / "dlm"
        self.user = user
        self.excused = False                    # a test has failed: end it, ask nothing
        self._log_path = self.directory / "log"
        self._options = [f"engine={engine}", *(["allow_other"] if allow_other else []),
                         *(option for option in options if not option.startswith("-"))]
        self._arguments = [option for option in options if option.startswith("-")]
        self._wait = wait
        self._environment = {"G_DEBUG": "fatal-warnings", **(environment or {})}
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    @property
    def cpu_time(self):
        """Seconds that it has computed, and the kernel for it: clock_getcpuclockid(3)."""
        return time.clock_gettime(~self.pid << 3 | 2)

    @property
    def log(self):
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def command(self):
        return [str(self._program()), "-f", *self._arguments, "-o", ",".join(self._options), str(self.mountpoint)]

    def _program(self):
        """A user's daemon is a copy, since the source tree may be out of his reach."""
        if self.user is None:
            return daemon_path()
        copy = self.directory / "lockspacefs"
        if not copy.exists():
            shutil.copy(daemon_path(), copy)
        return copy

    def start(self):
        self.mountpoint.mkdir(exist_ok=True)
        ids = {}
        if self.user is not None:
            os.chown(self.mountpoint, self.user, self.user)
            ids = {"user": self.user, "group": self.user, "extra_groups": []}
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd="/", env={**os.environ, **self._environment}, **ids)
        if self not in Daemon.running:
            Daemon.running.append(self)
        try:
            if self._wait:
                self.wait_until_it_answers()
        except BaseException:
            self._clean_up()
            raise
        return self

    def wait_until_it_answers(self):
        if not wait_until_mounted(self.mountpoint, self.pid):
            raise AssertionError(f"lockspacefs ended with status {self.process.wait()} before it mounted:\n{self.log}")
        self.as_its_user(lambda: os.stat(self.mountpoint))

    def as_its_user(self, function):
        """Call it as somebody who is allowed on the mount."""
        return function() if self.user is None else run_as(self.user, function)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=TIMEOUT):
        """Its exit status, once it has ended."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"lockspacefs still runs after {timeout} s") from None

    def stop(self, timeout=TIMEOUT):
        """Unmount; the daemon ends by itself with status 0."""
        end_children()
        if self.user is None:
            umount(self.mountpoint)
        else:
            done = run_as(self.user, ["fusermount3", "-u", str(self.mountpoint)])
            assert done.returncode == 0, done.stderr
        code = self.wait(timeout)
        assert code == 0, f"lockspacefs ended with status {code}:\n{self.log}"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def check_log(self):
        trouble = trouble_in(self.log)
        assert not trouble, "lockspacefs complained:\n" + "\n".join(trouble)

    def check(self):
        """No warning was logged, and it ended well."""
        self.check_log()
        assert self.process.returncode == 0, f"lockspacefs ended with status {self.process.returncode}"

    def _clean_up(self):
        """Whatever state it is in: gone, and a well one takes its lockspaces along."""
        end_children()
        for attempt in [self.process.terminate, self.process.terminate, self.process.kill]:
            if self.process.poll() is None:
                attempt()
                wait_for_exit(self.pid, 5)
                self.process.poll()
        while is_mounted(self.mountpoint):
            umount(self.mountpoint, lazily=True)
        if self in Daemon.running:
            Daemon.running.remove(self)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        strict = kind is None and not self.excused
        try:
            if strict and self.process.poll() is None:
                self.stop()
        finally:
            self._clean_up()
        if strict:
            self.check()


def lockspacefs(*arguments, user=None, timeout=TIMEOUT, **kwargs):
    """Run the program with just these arguments; a CompletedProcess with text output."""
    ids = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run([str(daemon_path()), *map(str, arguments)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout, check=False, **ids, **kwargs)
