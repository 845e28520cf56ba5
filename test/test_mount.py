"""mount(8), umount(8) and fstab: each test has mount points, /usr/sbin and /etc/fstab of its own."""

import errno
import fcntl
import os
import re
import shutil
import subprocess

import pytest

from lockspacefs_test import NOBODY, SOMEBODY, TIMEOUT, daemon_path, never_opened, wait_until

HELPERS = ["mount.lockspacefs", "mount.fuse.lockspacefs", "umount.fuse.lockspacefs"]
USAGE, FAILURE = 1, 32                          # as mount(8) has them

# A folder that can be written to, with all that was in it; links stay what they are.
SETUP = r"""
set -e
shadow() {
        mkdir -p "$T/before$1"
        mount --bind "$1" "$T/before$1"
        mount -t tmpfs -o mode=755 none "$1"
        find "$T/before$1" -mindepth 1 -maxdepth 1 -type l -exec cp -a -t "$1" {} +
        find "$T/before$1" -mindepth 1 -maxdepth 1 ! -type l -exec ln -s -t "$1" {} +
}
mount --make-rprivate /
shadow /usr/sbin
shadow /etc
rm -f /usr/sbin/*lockspacefs
cp -a "$T"/sbin/* /usr/sbin/
rm -f /etc/fstab
cp "$T/fstab" /etc/fstab
echo ready
read -r end                                # bash, since it buries whoever is orphaned
"""


class Machine:
    """Processes and mounts that end with the test. Commands run as on a machine where lockspacefs is installed."""

    def __init__(self, directory, engine):
        self.directory = directory
        self.dlm = directory / "dlm"
        self.dlm.mkdir()
        self.options = f"engine={engine}"
        (directory / "fstab").write_text("")
        programs = directory / "sbin"
        programs.mkdir()
        shutil.copy(daemon_path(), programs / "lockspacefs")
        for name in HELPERS:
            (programs / name).symlink_to("lockspacefs")

    def __enter__(self):
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", SETUP],
            env={**os.environ, "T": str(self.directory)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        self.init, = subprocess.run(["pgrep", "-P", str(self.holder.pid)], capture_output=True, text=True, check=True).stdout.split()
        return self

    def __exit__(self, *exc):
        try:
            self.run(f"pkill -CONT -x lockspacefs; umount -l {self.dlm}; pkill -x lockspacefs; pkill -x lockspacefs")
            wait_until(lambda: self.daemons() == [])                    # its lockspaces go along
        finally:
            self.holder.stdin.close()           # the first process of a pid namespace takes all others along
            self.holder.wait(TIMEOUT)
            self.holder.stdout.close()

    def run(self, command, user=None):
        become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return subprocess.run(["nsenter", "--target", self.init, "--mount", "--pid", *become, "sh", "-c", command],
                              capture_output=True, text=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL,
                              env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

    def check(self, command, user=None):
        """It succeeds and complains of nothing; what it printed."""
        done = self.run(command, user)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def mounted(self, path=None):
        """(source, type, options) of what is mounted there."""
        found = self.run(f"findmnt -n -r -o SOURCE,FSTYPE,OPTIONS '{path or self.dlm}'").stdout
        return [tuple(line.split(" ")) for line in found.splitlines()]

    def daemons(self):
        return self.run("pgrep -x lockspacefs").stdout.split()

    def fstab(self, *lines):
        self.check("cat >/etc/fstab <<'END'\n" + "\n".join(lines) + "\nEND")


@pytest.fixture
def machine(directory, engine):
    with Machine(directory, engine) as running:
        yield running


def use(machine):
    """The mount does what it is for."""
    assert machine.check(f"cd {machine.dlm} && mkdir web && flock web/job echo mine && rmdir web") == "mine\n"


@pytest.mark.parametrize("kind", ["lockspacefs", "fuse.lockspacefs"])
@pytest.mark.parametrize("order", ["-t {kind} none {dlm} -o {options}", "-t {kind} -o {options} -v lockspacefs {dlm}"])
def test_mount_by_type(machine, kind, order):
    machine.check("mount " + order.format(kind=kind, dlm=machine.dlm, options=machine.options))
    (_, found, _), = machine.mounted()
    assert found == "fuse.lockspacefs"
    use(machine)
    machine.check(f"umount {machine.dlm}")
    assert machine.mounted() == []
    wait_until(lambda: machine.daemons() == [])


def test_mount_through_the_helper_of_fuse(machine):
    """Where lockspacefs is in the PATH, but its helpers are not where mount looks."""
    machine.check("rm /usr/sbin/mount.*lockspacefs")
    machine.check(f"mount -t fuse.lockspacefs none {machine.dlm} -o {machine.options}")
    assert machine.mounted()[0][:2] == ("none", "fuse.lockspacefs")
    use(machine)


@pytest.mark.parametrize("command", ["umount", "umount -c", "umount -l", "umount -f", "fusermount3 -u", "umount.fuse.lockspacefs"])
def test_unmounting_by_name_ends_the_daemon(machine, command):
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}; mkdir {machine.dlm}/web")
    machine.check(f"{command} {machine.dlm}")
    assert machine.mounted() == []
    wait_until(lambda: machine.daemons() == [])


def test_umount_returns_when_the_lockspaces_are_released(machine):
    """-c, as systemd says it: without it umount does not look for helpers of fuse.TYPE."""
    for _ in range(10):
        machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}; mkdir {machine.dlm}/web")
        assert machine.run(f"umount -c {machine.dlm}; pgrep -x -r R,S,D lockspacefs").stdout == ""      # not Z


def test_umount_does_not_wait_for_a_daemon_that_hangs(machine):
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}")
    machine.check("pkill -STOP -x lockspacefs")
    machine.check(f"umount -c {machine.dlm}")
    assert machine.mounted() == []
    machine.check("pkill -CONT -x lockspacefs")
    wait_until(lambda: machine.daemons() == [])


@pytest.fixture
def start_impostor(machine, helpers):
    """Mount what looks like ours, and shows what is in the directory that this returns."""
    def start(*arguments):
        shown = machine.directory / "shown"
        shown.mkdir()
        machine.check(f"{helpers}/impostor {shown} {machine.dlm} {' '.join(arguments)} >{machine.directory}/impostor.log 2>&1 &")
        wait_until(lambda: [kind for _, kind, _ in machine.mounted()] == ["fuse.lockspacefs"])
        return shown
    return start


def test_umount_follows_no_link(machine, start_impostor):
    """Whoever mounted it may be anybody, and we are root."""
    fifo = machine.directory / "outside"
    os.mkfifo(fifo)
    (start_impostor() / ".status").symlink_to(fifo)
    with never_opened(fifo):
        machine.check(f"timeout {TIMEOUT / 3} umount -c {machine.dlm}")
        assert machine.mounted() == []


def test_umount_of_a_mount_that_never_answers(machine, start_impostor):
    """The look at it does not even end by SIGKILL, and is not in the way of umount."""
    (start_impostor("mute") / ".status").write_text("version 1\npid 1\n")
    machine.check(f"timeout {TIMEOUT / 3} umount -c {machine.dlm}")
    assert machine.mounted() == []
    assert len(machine.daemons()) == 1          # it is the look: we have one name
    machine.check("pkill -KILL -x impostor")
    wait_until(lambda: machine.daemons() == [], what="the end of the look")


ELSEWHERE = {
    "bound": ("mkdir {dlm}.too; mount --bind {dlm} {dlm}.too", "umount -i {dlm}.too"),
    "in another namespace": ("""mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections
                                mkfifo {dlm}.there
                                unshare --mount sh -c 'echo >{dlm}.there; exec sleep 1000' >{dlm}.log 2>&1 &
                                echo $! >{dlm}.pid; read there <{dlm}.there""",
                             "kill $(cat {dlm}.pid)"),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_umount_does_not_wait_for_a_daemon_that_serves_another_place(machine, place):
    begin, end = (command.format(dlm=machine.dlm) for command in ELSEWHERE[place])
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}")
    machine.check(begin)
    try:
        machine.check(f"timeout {TIMEOUT / 3} umount -c {machine.dlm}")
        assert machine.mounted() == [] and len(machine.daemons()) == 1
    finally:
        machine.check(end)
    wait_until(lambda: machine.daemons() == [])


@pytest.mark.parametrize("command", ["umount", "umount -c", "fusermount3 -u"])
def test_a_mount_in_use_is_busy(machine, command):
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}; mkdir {machine.dlm}/web")
    done = machine.run(f"exec 9>{machine.dlm}/web/.ex/job; {command} {machine.dlm}; echo $?; cut -f1-3 {machine.dlm}/web/.locks")
    code, _, lock = done.stdout.splitlines()
    assert int(code) != 0 and lock == "job\theld\tEX"
    assert re.search("busy|open", done.stderr)


def test_a_mount_over_another_is_refused(machine):
    """It would hide the locks that are held below; on the engine local two would hold the same."""
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}; mkdir {machine.dlm}/web")
    for command in [f"mount -t lockspacefs none {machine.dlm}", f"cd {machine.directory}; lockspacefs dlm"]:
        done = machine.run(f"{command} -o {machine.options}")
        assert done.returncode != 0 and "mounted there already" in done.stderr
    assert len(machine.mounted()) == 1
    machine.check(f"lockspacefs -o {machine.options} {machine.dlm}/web; umount -c {machine.dlm}/web")      # inside is another place
    assert machine.check(f"ls {machine.dlm}") == "web\n"


# --- options ---------------------------------------------------------------------

WITHOUT_MEANING = ["defaults,auto,noauto,nofail,_netdev,nouser,user,users,owner,group,comment=x",
                   "x-systemd.requires=dlm.service,x-systemd.automount,X-mount.mkdir",
                   "rw,suid,dev,exec,async,atime,diratime,relatime,strictatime,lazytime,iversion,mand,silent,symfollow",
                   "nosuid,nodev,noexec,sync,dirsync,noatime,nodiratime,norelatime,nostrictatime,nolazytime,noiversion,nomand,loud,"
                   "nosymfollow"]


@pytest.mark.parametrize("options", WITHOUT_MEANING)
def test_options_that_others_mean(machine, options):
    """By mount, which keeps some for itself, and by hand."""
    for command in [f"mount -t lockspacefs none {machine.dlm}", f"mount.lockspacefs none {machine.dlm}", f"lockspacefs {machine.dlm}"]:
        machine.check(f"{command} -o {options},{machine.options}")
        use(machine)
        machine.check(f"umount -c {machine.dlm}")


def test_options_of_the_kernel_reach_it(machine):
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options},noexec,noatime,ro,max_read=8192")
    (_, _, options), = machine.mounted()
    assert {"ro", "noexec", "noatime", "default_permissions", "max_read=8192"} <= set(options.split(","))
    assert "Read-only" in machine.run(f"mkdir {machine.dlm}/web").stderr


@pytest.mark.parametrize("options, reason", [
    ("engine=paper", "no engine \"paper\""),
    ("nonsense", "unknown option.*nonsense"),
    ("mode=rwx", "mode=rwx: write permissions in octal"),
    ("remount", "remount: .*unmount it and mount it again"),
])
def test_wrong_options_are_refused(machine, options, reason):
    done = machine.run(f"mount -t lockspacefs none {machine.dlm} -o {machine.options},{options}")
    assert done.returncode in (USAGE, FAILURE)
    assert re.match(f"lockspacefs: .*{reason}", done.stderr)
    assert machine.mounted() == []
    assert machine.daemons() == []


@pytest.mark.parametrize("arguments, code, reason", [
    ("none {dlm} -x -o engine=local", USAGE, "unknown option \"-x\""),
    ("none {dlm} -N 1 -o engine=local", USAGE, "unknown option \"-N\""),
    ("none {dlm} more -o engine=local", USAGE, "more"),
    ("", USAGE, "no mount point"),
    ("none {dlm}/missing -o engine=local", USAGE, "missing.*make it with mkdir"),
    ("none {dlm} -o engine=dlm,lockspace_flags=nonsense", FAILURE, "."),
])
def test_the_helper_says_what_is_wrong(machine, arguments, code, reason):
    done = machine.run("mount.lockspacefs " + arguments.format(dlm=machine.dlm))
    assert done.returncode == code
    assert re.match(f"lockspacefs: .*{reason}", done.stderr)
    assert machine.mounted() == []


@pytest.mark.parametrize("source", ["run", "status"])
def test_a_source_may_have_the_name_of_a_command(machine, source):
    machine.check(f"cd {machine.directory}; mount -t lockspacefs {source} {machine.dlm} -o {machine.options}")   # there is a /run
    assert machine.check(f"grep ' {machine.dlm} ' /proc/self/mounts").startswith(f"{source} ")
    use(machine)


def test_mount_f_only_tries(machine):
    machine.check(f"mount -f -t lockspacefs none {machine.dlm} -o {machine.options}")
    machine.check(f"mount.lockspacefs none {machine.dlm} -fnsv -t lockspacefs -o rw,{machine.options}")
    assert machine.run(f"mount.lockspacefs none {machine.dlm} -f -o mode=rwx").returncode == USAGE
    assert machine.run(f"mount.lockspacefs none {machine.dlm} -f -o nonsense").returncode == USAGE
    assert (machine.mounted(), machine.daemons()) == ([], [])


def test_umount_helper_says_what_is_wrong(machine):
    assert machine.run("umount.fuse.lockspacefs").returncode == USAGE
    assert machine.run("umount.fuse.lockspacefs -x /").returncode == USAGE
    done = machine.run(f"umount.fuse.lockspacefs {machine.dlm}")
    assert done.returncode == FAILURE and os.strerror(errno.EINVAL) in done.stderr


def test_daemons_are_found_by_name(machine):
    """Whatever the name that started them."""
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}")
    pid, = machine.daemons()
    assert f"pid {pid}" in machine.check(f"cat {machine.dlm}/.status").splitlines()


def test_a_caller_whose_pid_is_not_to_be_seen_has_none(machine):
    """From outside the daemon's pid namespace, after one from within used the same open file."""
    machine.check(f"mount -t lockspacefs none {machine.dlm} -o {machine.options}; mkdir {machine.dlm}/web")
    fd = os.open(f"/proc/{machine.init}/root{machine.dlm}/web/job", os.O_RDWR | os.O_CREAT)
    try:
        subprocess.run(["nsenter", "--target", machine.init, "--pid", "flock", str(fd)], pass_fds=[fd], check=True)
        assert machine.check(f"tail -n 1 {machine.dlm}/web/.locks").split("\t")[5] not in ["0", "-"]
        fcntl.flock(fd, fcntl.LOCK_UN)
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert machine.check(f"tail -n 1 {machine.dlm}/web/.locks").split("\t")[5] in ["0", "-"]
    finally:
        os.close(fd)


# --- fstab -----------------------------------------------------------------------

def test_fstab(machine):
    machine.fstab(f"none {machine.dlm} lockspacefs {machine.options},allow_other,_netdev,nofail,x-systemd.requires=dlm.service 0 0")
    assert "0 parse errors, 0 errors" in machine.run("findmnt --verify").stderr
    machine.check("mount -a")
    machine.check("mount -a")                   # it is there: nothing is mounted over it
    assert [kind for _, kind, _ in machine.mounted()] == ["fuse.lockspacefs"]
    use(machine)
    machine.check("umount -a -t fuse.lockspacefs")
    assert machine.mounted() == []
    machine.check(f"mount {machine.dlm} && umount {machine.dlm}")


@pytest.mark.parametrize("source", ["none", "lockspacefs", "locks,of\\134us"])
def test_the_source_is_shown(machine, source):
    machine.fstab(f"{source} {machine.dlm} lockspacefs {machine.options} 0 0")
    machine.check("mount -a; mount -a")
    shown = machine.check(f"findmnt -n -o SOURCE {machine.dlm}").strip()
    assert shown == source.replace("\\134", "\\")


def test_fstab_lets_an_ordinary_user_mount(machine, engine, fuse_device):
    if engine == "dlm":                         # it needs privilege, and says so
        machine.fstab(f"none {machine.dlm} lockspacefs user,noauto 0 0")
        assert "CAP_SYS_ADMIN" in machine.run(f"mount {machine.dlm}", NOBODY).stderr
        return
    machine.fstab(f"none {machine.dlm} lockspacefs engine=local,user,noauto 0 0")
    os.chown(machine.dlm, NOBODY, NOBODY)
    for command in ["umount", "umount -c", "fusermount3 -u"]:
        machine.check(f"mount {machine.dlm}", NOBODY)
        (_, _, options), = machine.mounted()
        assert {f"user_id={NOBODY}", "nosuid", "nodev", "noexec"} <= set(options.split(","))
        assert machine.check(f"mkdir {machine.dlm}/web && flock {machine.dlm}/web/job echo mine", NOBODY) == "mine\n"
        assert machine.run(f"{command} {machine.dlm}", SOMEBODY).returncode != 0
        assert len(machine.mounted()) == 1
        machine.check(f"{command} {machine.dlm}", NOBODY)
        assert machine.mounted() == []
        wait_until(lambda: machine.daemons() == [])
