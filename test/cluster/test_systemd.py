"""A node that systemd has booted, with Debian's own corosync.service and dlm.service, and lockspacefs installed."""

import contextlib
import re
import subprocess

import pytest

import tools
from cluster import Cluster, wait_until

SOON = 60
BOOT = 240                                      # idle machines take 15 seconds for it
UNIT = "lockspacefs.service"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    build = tools.daemon().parent.parent
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", root], capture_output=True, check=True)
    cluster = Cluster(1, cluster="systemd", mem="256M", directories=[root])
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.down)
        cluster.up(BOOT)
        node = cluster.node(1)
        # mount looks for its helpers in /sbin alone
        node.run(f"cp -a {root}/usr/local/. /usr/local/ && cp -a {root}/usr/local/sbin/* /usr/sbin/ && "
                 "systemctl daemon-reload && systemd-tmpfiles --create lockspacefs.conf", check=True)
        yield node


@pytest.fixture
def node(machine):
    """Nothing of it runs, and nothing is configured."""
    machine.cursor = machine.run("journalctl -n 0 --show-cursor", check=True).stdout.split("cursor: ")[1].strip()
    yield machine
    machine.run("pkill -KILL -f hold-a-lock; rm -rf /etc/default/lockspacefs /run/systemd/system/*; echo >/etc/fstab; "
                f"systemctl stop {UNIT} dlm.mount; systemctl stop corosync; systemctl daemon-reload; systemctl reset-failed", SOON)
    assert machine.run("ls /sys/kernel/dlm").stdout == ""


def show(node, unit, *names):
    """Properties of a unit, in the order asked for."""
    lines = node.run(f"systemctl show {unit} -p {','.join(names)}", check=True).stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    return found[names[0]] if len(names) == 1 else [found[name] for name in names]


def until(node, unit, **wanted):
    wait_until(lambda: all(show(node, unit, name) == value for name, value in wanted.items()), SOON, f"{unit}: {wanted}")


def drop_in(node, text):
    node.run(f"mkdir -p /run/systemd/system/{UNIT}.d", check=True)
    node.write_file(f"/run/systemd/system/{UNIT}.d/test.conf", f"[Service]\n{text}\n")
    node.run("systemctl daemon-reload", check=True)


def journal(node, unit=UNIT):
    """What one start of it has logged, as (priority, message)."""
    invocation = show(node, unit, "InvocationID")
    fields = "--output-fields=PRIORITY,MESSAGE"
    text = node.run(f"journalctl --sync; journalctl --no-pager -o json {fields} _SYSTEMD_INVOCATION_ID={invocation}").stdout
    return [(int(re.search(r'"PRIORITY":"(\d)"', line)[1]), re.search(r'"MESSAGE":"(.*?)"[,}]', line)[1])
            for line in text.splitlines()]


def start(node):
    """As an administrator does. When that returns, the mount answers."""
    node.run(f"systemctl start {UNIT}", SOON, check=True)
    node.run("cat /dlm/.status", check=True)


def hold(node, path="/dlm/web/job"):
    job = node.popen(f"exec 9>{path}; flock 9; echo held; exec sh -c 'read line; : hold-a-lock'", stdin=True)
    job.wait_for("held")
    return job


def assert_stopped_in_order(node, *units):
    """Each had ended well before the next began to stop, and none was given up."""
    lines = node.run(f"journalctl --sync; journalctl --no-pager -o cat --after-cursor='{node.cursor}' _PID=1").stdout.splitlines()

    def position(pattern):
        found = [i for i, line in enumerate(lines) if re.match(pattern, line)]
        assert found, (pattern, lines)
        return found[-1]

    for earlier, later in zip(units, units[1:]):
        assert position(f"(Stopped|Unmounted) {earlier}") < position(f"Stopping {later}")
    for unit in units:
        assert position(f"{unit}: Deactivated successfully")
        assert show(node, unit, "ActiveState", "Result") == ["inactive", "success"]


# --- start, use, stop ------------------------------------------------------------

def test_units_are_in_order(node):
    done = node.run(f"systemd-analyze verify {UNIT}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert node.run("stat -c '%F %a %U' /dlm").stdout == "directory 755 root\n"
    node.run("systemctl stop sys-fs-fuse-connections.mount && rmmod fuse", check=True)
    node.run("systemctl restart systemd-modules-load && grep '^fuse ' /proc/modules", check=True)


def test_it_starts_the_cluster_and_says_how_it_is(node):
    start(node)
    assert show(node, "dlm.service", "ActiveState") == "active"
    assert show(node, UNIT, "StatusText") == "engine dlm, node 1, lockspaces: none"
    node.run("mkdir /dlm/web && flock /dlm/web/job true && mkdir /dlm/db", check=True)
    until(node, UNIT, StatusText="engine dlm, node 1, lockspaces: db web")
    node.run("rmdir /dlm/db", check=True)
    until(node, UNIT, StatusText="engine dlm, node 1, lockspaces: web")
    node.run("dlm_tool join other", check=True)
    until(node, UNIT, StatusText="engine dlm, node 1, lockspaces: other web")
    node.run("dlm_tool leave other", check=True)
    assert (5, "mounted on /dlm, engine dlm") in journal(node)
    assert node.run("cat /proc/$(pgrep -x lockspacefs)/oom_score_adj").stdout == "-1000\n"
    # ordinary users are let in, and the tmpfiles entry leaves alone what is mounted
    node.run("ls /dlm/web", user=12345, check=True)
    node.run("chmod 1777 /dlm; systemd-tmpfiles --create lockspacefs.conf", check=True)
    assert node.run("stat -c %a /dlm").stdout == "1777\n"


def test_it_is_stopped_before_the_dlm(node):
    """A lockspace would keep dlm_controld from stopping."""
    start(node)
    node.run("mkdir /dlm/web && flock /dlm/web/job true", check=True)
    node.run("systemctl stop corosync", SOON, check=True)
    assert_stopped_in_order(node, UNIT, "dlm.service", "corosync.service")


def test_it_is_restarted_with_the_dlm(node):
    start(node)
    node.run("mkdir /dlm/web && systemctl restart dlm", SOON, check=True)
    until(node, UNIT, ActiveState="active")
    assert node.run("ls -A /dlm").stdout == ""
    node.run("mkdir /dlm/web && flock /dlm/web/job true", check=True)


def test_umount_ends_the_service(node):
    start(node)
    node.run("umount /dlm", check=True)
    until(node, UNIT, ActiveState="inactive", Result="success")


def test_the_administrators_options(node):
    node.run("mkdir -p '/the locks'", check=True)
    node.write_file("/etc/default/lockspacefs", "MOUNTPOINT='/the locks'\nOPTIONS=engine=local,mode=1777,wait=7\n")
    node.run(f"systemctl start {UNIT}", SOON, check=True)
    assert node.run("stat -c %a '/the locks'").stdout == "1777\n"
    assert show(node, UNIT, "StatusText") == "engine local, node 0, lockspaces: none"


# --- trouble ---------------------------------------------------------------------

def test_holders_are_given_time(node):
    start(node)
    node.run("mkdir /dlm/web", check=True)
    job = hold(node)
    stop = node.popen("systemctl stop dlm; echo stopped")
    until(node, UNIT, SubState="stop-sigterm")
    wait_until(lambda: node.run("mountpoint -q /dlm").returncode != 0, SOON, "the end of the mount")
    assert "ending: 1 files are open" in show(node, UNIT, "StatusText")
    assert show(node, "dlm.service", "ActiveState") == "active"
    assert job.poll() is None
    job.send("done\n")
    stop.wait_for("stopped", SOON)
    assert_stopped_in_order(node, UNIT, "dlm.service")


def test_a_holder_who_does_not_let_go_loses_his_lock(node):
    """After TimeoutStopSec; and no lockspace is left for dlm_controld to stumble over."""
    drop_in(node, "TimeoutStopSec=2")
    start(node)
    node.run("mkdir /dlm/web", check=True)
    job = hold(node)
    node.run("systemctl stop dlm", SOON, check=True)
    assert show(node, UNIT, "Result") == "timeout"
    assert show(node, "dlm.service", "ActiveState", "Result") == ["inactive", "success"]
    assert node.run("ls /sys/kernel/dlm").stdout == ""
    assert job.poll() is None


def test_a_killed_daemon_is_started_again(node):
    start(node)
    node.run("mkdir /dlm/web", check=True)
    node.run("kill -KILL $(pgrep -x lockspacefs)", check=True)
    until(node, UNIT, NRestarts="1", ActiveState="active")
    node.run("flock /dlm/web/job true", check=True)
    assert len(node.run("findmnt -n /dlm").stdout.splitlines()) == 1
    # what it had made is still its own: it does not keep the cluster from stopping
    node.run("systemctl stop dlm", SOON, check=True)
    assert_stopped_in_order(node, UNIT, "dlm.service")


def test_it_tries_again_until_the_cluster_is_there(node):
    node.run("systemctl mask --runtime dlm.service", check=True)
    assert node.run(f"systemctl start {UNIT}", SOON).returncode != 0
    [(priority, message)] = [line for line in journal(node) if line[1].startswith("lockspacefs: ")]
    assert priority == 3 and "dlm" in message
    node.run("systemctl unmask --runtime dlm.service; systemctl start dlm", SOON, check=True)
    until(node, UNIT, ActiveState="active")


@pytest.mark.parametrize("options, reason", [
    ("mode=rwx", "mode=rwx: write permissions in octal, from 0 to 07777"),
    ("enigne=local", "fuse: unknown option(s): `-o enigne=local'; see --help"),
])
def test_a_wrong_option_is_not_tried_again(node, options, reason):
    node.write_file("/etc/default/lockspacefs", f"OPTIONS={options}\n")
    assert node.run(f"systemctl start {UNIT}", SOON).returncode != 0
    assert show(node, UNIT, "ActiveState", "Result", "ExecMainStatus") == ["failed", "exit-code", "2"]
    assert (3, f"lockspacefs: {reason}") in journal(node)


def test_it_shows_that_it_is_alive(node):
    drop_in(node, "WatchdogSec=4")
    start(node)
    seen = set()
    wait_until(lambda: seen.add(show(node, UNIT, "WatchdogTimestampMonotonic")) or len(seen) > 2, SOON, "signs of life")
    assert show(node, UNIT, "ActiveState", "NRestarts") == ["active", "0"]


# --- what it may not do ------------------------------------------------------------

PROBE = r"""
[ "$(readlink /proc/self/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" ] && echo mounts are seen by all
unshare -n true || echo no namespaces
bash -c 'echo >/dev/tcp/127.0.0.1/1' 2>&1 | grep -o 'Address family not supported' | head -1
head -c 1 /dev/kmsg || echo no other devices
chrt -f 1 true || echo no real time
cp /bin/true /run/probe-true; chmod u+s /run/probe-true || echo no set-user-id; rm /run/probe-true
mknod /run/probe-null c 1 3 || echo no mknod
setpriv --reuid 12345 true || echo no other users
reboot -f --no-wall 2>/dev/null || echo no reboot
python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE|mmap.PROT_EXEC)' || echo no code that writes itself
head -c 0 /dev/fuse && echo fuse
head -c 0 /dev/misc/dlm-control && echo dlm
"""
PROBED = ["mounts are seen by all", "no namespaces", "Address family not supported", "no other devices", "no real time",
          "no set-user-id", "no mknod", "no other users", "no reboot", "no code that writes itself", "fuse", "dlm"]


def test_the_sandbox(node):
    """The same unit with another program in it, which tries."""
    node.write_file("/run/probe", PROBE)
    node.run("systemctl start dlm", SOON, check=True)
    unit = node.run(f"cat /usr/local/lib/systemd/system/{UNIT}", check=True).stdout
    unit = re.sub("^ExecStart=.*", "ExecStart=/bin/sh /run/probe", unit, flags=re.M)
    unit = re.sub("^(ExecStopPost|Restart|RestartSec|WatchdogSec|PartOf)=.*", "", unit, flags=re.M)
    unit = unit.replace("Type=notify", "Type=oneshot\nStandardOutput=file:/run/probed\nStandardError=journal")
    node.write_file("/run/systemd/system/probe.service", unit)
    node.run("systemctl daemon-reload; systemctl start probe", SOON)
    assert node.read_file("/run/probed").splitlines() == PROBED


# --- fstab -----------------------------------------------------------------------

def test_fstab(node):
    node.write_file("/etc/fstab", "none /dlm lockspacefs allow_other,_netdev,nofail,x-systemd.requires=dlm.service 0 0\n")
    node.run("systemctl daemon-reload && systemctl start dlm.mount", SOON, check=True)
    assert show(node, "dlm.mount", "What", "Type") == ["none", "fuse.lockspacefs"]
    assert show(node, "dlm.service", "ActiveState") == "active"
    node.run("mkdir /dlm/web /dlm/db && flock /dlm/web/job true", check=True)
    node.run("systemctl stop dlm.service", SOON, check=True)
    assert_stopped_in_order(node, "dlm.mount", "dlm.service")
    assert node.run("pgrep -x lockspacefs").stdout == ""
