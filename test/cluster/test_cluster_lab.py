"""The lab itself: nodes are machines, and together they are a cluster that runs the kernel's DLM.

lockspacefs plays no part here. What the tests of lockspacefs lean on is what these show.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sessions
import tools
from cluster import Cluster, LabError, LabTimeout, wait_until

LAB = Path(__file__).resolve().parent / "lab"
TOKEN = 0.5                                     # seconds until the others miss a node, Cluster's default
SOON = 30                                       # seconds within which recovery must be over, on a busy machine too


def hold(node, lockspace, mode="EX", resource="deploy", *more):
    """A lock, granted."""
    job = node.dlmlock(lockspace, f"lock held {resource} {mode} {' '.join(more)}")
    job.wait_for(f"held granted {mode}")
    return job


def queue(node, lockspace, mode="EX", resource="deploy"):
    """A lock that is asked for and is not granted."""
    job = node.dlmlock(lockspace, f"lock waiter {resource} {mode}")
    job.wait_for("waiter asked")
    assert is_refused(node, lockspace, mode, resource)          # the DLM has seen both
    assert "granted" not in job.out()
    return job


def is_refused(node, lockspace, mode="EX", resource="deploy"):
    """What a try says."""
    done = node.run(f"{tools.helpers()}/dlmlock {lockspace} 'lock try {resource} {mode} noqueue' wait quit", 20)
    assert ("EAGAIN" in done.stdout) != ("granted" in done.stdout), done
    assert done.returncode == ("EAGAIN" in done.stdout)
    return done.returncode == 1


def guests_of(state):
    """Processes that have to do with a cluster, by what they were started with."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if str(state).encode() in words:
                found.append(int(entry))
    return found


# --- nodes come up ---------------------------------------------------------

def test_three_nodes_join_a_lockspace(three_nodes, lockspace_name):
    for node in three_nodes.nodes:
        assert node.members() == [1, 2, 3]
    three_nodes.join(lockspace_name)
    for node in three_nodes.nodes:
        assert lockspace_name in node.run("dlm_tool ls", check=True).stdout
        node.run(f"test -c /dev/misc/dlm_{lockspace_name}", check=True)


def test_packaged_kernel_comes_up(lockspace_name):
    with Cluster(2, kernel="packaged") as cluster:
        cluster.join(lockspace_name)
        hold(cluster.node(1), lockspace_name)
        assert is_refused(cluster.node(2), lockspace_name)


def test_debugfs_shows_locks(one_node, lockspace_name):
    node = one_node.node(1)
    node.join(lockspace_name)
    job = hold(node, lockspace_name, "EX", "deploy")
    locks = node.read_file(f"/sys/kernel/debug/dlm/{lockspace_name}_locks")
    line = next(line for line in locks.splitlines() if '"deploy"' in line)
    assert line.split()[3] == str(job.pid)      # id nodeid remid pid …, as fs/dlm/debug_fs.c prints


def test_failing_up_leaves_nothing(tmp_path):
    cluster = Cluster(1, state=tmp_path / "lab", modules="no/such/module")
    with pytest.raises(LabError, match="no/such/module"):
        cluster.up()
    assert guests_of(cluster.state) == []
    assert list(tmp_path.iterdir()) == []


# --- locks -----------------------------------------------------------------

def test_ex_on_one_node_excludes_another(two_nodes, lockspace_name):
    two_nodes.join(lockspace_name)
    held = hold(two_nodes.node(1), lockspace_name)
    waiter = queue(two_nodes.node(2), lockspace_name)
    held.send("unlock held\n")
    held.wait_for("held unlocked")
    waiter.wait_for("waiter granted EX")


def test_blocking_callback_and_value_cross_nodes(two_nodes, lockspace_name):
    two_nodes.join(lockspace_name)
    held = hold(two_nodes.node(1), lockspace_name, "EX", "rev", "bast", "valblk")
    reader = two_nodes.node(2).dlmlock(lockspace_name, "lock r rev PR valblk")
    held.wait_for("held blocking PR")
    held.send("unlock held value=42\n")
    reader.wait_for("r granted PR value=42")


def test_killed_holder_lets_go(two_nodes, lockspace_name):
    two_nodes.join(lockspace_name)
    held = hold(two_nodes.node(1), lockspace_name)
    waiter = queue(two_nodes.node(2), lockspace_name)
    held.kill()
    waiter.wait_for("waiter granted EX")
    assert held.wait().returncode == 128 + signal.SIGKILL


def test_stopped_lockspace_blocks_and_goes_on(one_node, lockspace_name):
    node = one_node.node(1)
    node.join(lockspace_name)
    node.stop_lockspace(lockspace_name)
    job = node.dlmlock(lockspace_name, "lock a deploy EX")
    job.wait_for("a asked")
    with pytest.raises(LabTimeout):
        job.wait_for("a granted", timeout=0.5)
    node.start_lockspace(lockspace_name)
    job.wait_for("a granted EX")


# --- nodes fail ------------------------------------------------------------

def test_crash_gives_the_lock_to_who_waits(three_nodes, lockspace_name, record_property):
    three_nodes.join(lockspace_name)
    hold(three_nodes.node(1), lockspace_name)
    waiter = queue(three_nodes.node(2), lockspace_name)
    crashed = time.monotonic()
    three_nodes.node(1).crash()
    waiter.wait_for("waiter granted EX", timeout=SOON)
    record_property("seconds_to_grant", round(time.monotonic() - crashed, 2))
    assert time.monotonic() - crashed > TOKEN / 2               # nobody can have noticed earlier
    assert not three_nodes.node(1).runs()


def test_crashed_node_comes_back(three_nodes, lockspace_name):
    three_nodes.node(3).crash()
    three_nodes.node(3).start(members=3)
    three_nodes.join(lockspace_name)
    hold(three_nodes.node(3), lockspace_name)
    assert is_refused(three_nodes.node(1), lockspace_name)


def test_frozen_node_is_thrown_out(three_nodes, lockspace_name):
    three_nodes.join(lockspace_name)
    hold(three_nodes.node(1), lockspace_name)
    waiter = queue(three_nodes.node(2), lockspace_name)
    three_nodes.node(1).freeze()
    waiter.wait_for("waiter granted EX", timeout=SOON)
    three_nodes.node(1).throw_out()
    for number in (2, 3):
        wait_until(lambda: three_nodes.node(number).members() == [2, 3], SOON, "the others go on")
    three_nodes.node(1).crash()
    three_nodes.node(1).start(members=3)
    assert three_nodes.node(1).members() == [1, 2, 3]


def test_thawed_node_does_not_go_on_beside_the_others(three_nodes, lockspace_name):
    """Nobody has fenced it: which side survives is open, that only one does is not."""
    three_nodes.join(lockspace_name)
    three_nodes.node(1).freeze()
    wait_until(lambda: three_nodes.node(2).members() == [2, 3], SOON, "the others go on without it")
    three_nodes.node(1).thaw()

    def survivors():
        return {node.number for node in three_nodes.nodes if node.members()}

    wait_until(lambda: survivors() <= {1} or survivors() <= {2, 3}, SOON, "one side gives up")


def test_short_freeze_goes_unnoticed(two_nodes, lockspace_name):
    two_nodes.join(lockspace_name)
    held = hold(two_nodes.node(1), lockspace_name)
    two_nodes.node(1).freeze()
    time.sleep(TOKEN / 5)
    two_nodes.node(1).thaw()
    assert is_refused(two_nodes.node(2), lockspace_name)
    assert held.poll() is None


def test_cut_node_loses_its_locks(three_nodes, lockspace_name):
    three_nodes.join(lockspace_name)
    hold(three_nodes.node(1), lockspace_name)
    waiter = queue(three_nodes.node(2), lockspace_name)
    three_nodes.node(1).cut()
    waiter.wait_for("waiter granted EX", timeout=SOON)
    assert three_nodes.node(1).run("true").returncode == 0      # it runs on, and we still reach it
    assert not three_nodes.node(1).is_quorate()
    three_nodes.node(1).heal()
    wait_until(lambda: not three_nodes.node(1).members(), SOON, "it is thrown out")
    for number in (2, 3):
        wait_until(lambda: three_nodes.node(number).members() == [2, 3], SOON, "the others go on")


PING = f"{sys.executable} -c \"import socket; socket.create_connection(('10.99.0.1', 7777), 1)\""


@pytest.fixture
def server(three_nodes):
    """What PING reaches, on node 1."""
    listen = "import socket, time; s = socket.create_server(('10.99.0.1', 7777)); print('listens', flush=True); time.sleep(60)"
    job = three_nodes.node(1).popen(f"exec {sys.executable} -c \"{listen}\"")
    job.wait_for("listens")
    yield job
    job.kill()


def test_healed_network_carries_frames_again(three_nodes, server):
    node = three_nodes.node(1)
    assert three_nodes.node(2).run(PING).returncode == 0
    node.cut()
    assert three_nodes.node(2).run(PING).returncode != 0
    node.heal()
    assert three_nodes.node(2).run(PING).returncode == 0


def test_split_network_carries_frames_within_a_side(three_nodes, server):
    one, two, three = three_nodes.nodes
    three_nodes.split([one, two])
    assert two.run(PING).returncode == 0
    assert three.run(PING).returncode != 0
    three_nodes.unite()
    assert three.run(PING).returncode == 0


def test_without_quorum_locks_wait_until_a_node_comes_back(three_nodes, lockspace_name):
    three_nodes.join(lockspace_name)
    three_nodes.node(2).crash()
    three_nodes.node(3).crash()
    alone = three_nodes.node(1)
    wait_until(lambda: not alone.is_quorate(), SOON, "node 1 notices")
    job = alone.dlmlock(lockspace_name, "lock a deploy EX")
    job.wait_for("a asked")
    with pytest.raises(LabTimeout):
        job.wait_for("a granted", timeout=1)
    assert job.poll() is None
    three_nodes.node(2).start(members=2)
    job.wait_for("a granted EX", timeout=SOON)


# --- what runs on a node ---------------------------------------------------

def test_output_comes_while_the_job_runs(one_node):
    job = one_node.node(1).popen("echo first; read line; echo got $line; exit 3", stdin=True)
    job.wait_for("first")
    assert job.poll() is None
    job.send("second\n")
    job.wait_for("got second")
    assert job.wait().returncode == 3


def test_long_input_arrives_whole(one_node):
    job = one_node.node(1).popen("sleep 0.2; sha256sum; echo done", stdin=True)
    text = "".join(f"line {i}\n" for i in range(20000))
    job.send(text)
    job.close_stdin(30)
    expected = subprocess.run(["sha256sum"], input=text.encode(), capture_output=True).stdout.decode().split()[0]
    assert expected in job.wait().stdout


def test_timeout_kills_the_job(one_node):
    node = one_node.node(1)
    with pytest.raises(LabTimeout):
        node.run("exec sleep 12345", timeout=0.5)
    wait_until(lambda: node.run("pgrep -f 'sleep 1234[5]'").returncode == 1, 5, "the job is gone")


def test_files_written_and_read(one_node):
    node = one_node.node(1)
    content = "".join(map(chr, range(1, 0x250))) * 20
    node.write_file("/tmp/it's here", content, 0o600)
    assert node.read_file("/tmp/it's here") == content
    assert node.run("stat -c %a \"/tmp/it's here\"").stdout == "600\n"


def test_node_has_a_root_of_its_own(one_node, tmp_path):
    node = one_node.node(1)
    node.run("mkdir /dlm2 && touch /tmp/here /var/tmp/here /run/here", check=True)
    assert not any(map(os.path.exists, ("/dlm2", "/tmp/here", "/var/tmp/here", "/run/here")))
    (tmp_path / "secret").write_text("x")
    assert node.run(f"test -e {tmp_path}/secret").returncode == (0 if not str(tmp_path).startswith("/tmp") else 1)
    assert node.run(f"touch {LAB}").returncode != 0             # the host's files are there, and read-only
    assert node.run(f"test -x {LAB}").returncode == 0


def test_directories_below_tmp_can_be_seen(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("seen")
    with Cluster(1, cluster="none", directories=[tmp_path / "tree"]) as cluster:
        assert cluster.node(1).read_file(f"{tmp_path}/tree/file") == "seen"
        assert cluster.node(1).run(f"touch {tmp_path}/tree/file").returncode != 0


@pytest.mark.parametrize("user", ["nobody", 65534, 12345])
def test_ordinary_users(one_node, user):
    node = one_node.node(1)
    uid = 65534 if user == "nobody" else user
    done = node.run("id -u; touch /tmp/of-$(id -u) && cat /etc/hostname >/dev/null; echo $?", user=user)
    assert done.stdout == f"{uid}\n0\n"
    assert node.run("test -r /dev/fuse -a -w /dev/fuse", user=user).returncode == 0
    assert node.run("touch /root/x", user=user).returncode != 0


def test_node_can_run_the_test_suite(one_node):
    """What the tests of the mount need, seen as an ordinary user where they act as one."""
    node = one_node.node(1)
    for command in ("/usr/bin/python3 -m pytest --version", "perl -e 1", "busybox true", "flock --version",
                    "test -u $(which fusermount3)", "test -d /sys/fs/fuse/connections/",
                    "bash -c 'cat <(echo x)'", "unshare --user --map-root-user true"):
        node.run(command, check=True)


# --- the end ---------------------------------------------------------------

def test_down_leaves_nothing(tmp_path):
    before = set(os.listdir("/dev/shm"))
    with Cluster(2, state=tmp_path / "lab") as cluster:
        assert guests_of(cluster.state)
        cluster.node(2).freeze()
    assert guests_of(cluster.state) == []
    assert list(tmp_path.iterdir()) == []
    assert set(os.listdir("/dev/shm")) <= before


def test_guests_end_with_the_program_that_made_them(tmp_path):
    state = tmp_path / "lab"
    program = "import sys, time; sys.path.insert(0, sys.argv[1]); from cluster import Cluster; " \
              "Cluster(1, cluster='none', state=sys.argv[2]).up(); print('up', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", program, str(LAB.parent), str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as made_by:
        assert made_by.stdout.readline() == b"up\n"
        assert guests_of(state)
        made_by.kill()
    wait_until(lambda: not state.exists() and not guests_of(state), 10, "its cluster is gone")


def test_reused_pid_is_left_alone(tmp_path):
    """A pid file of a process that ended long ago must not hurt who has the number now."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as innocent:
        (tmp_path / "n1.pid").write_text(f"{innocent.pid} 1\n")
        sessions.end(tmp_path, "n1")
        assert innocent.poll() is None
        innocent.kill()
    assert not (tmp_path / "n1.pid").exists()


def test_command_line(tmp_path):
    """The commands, in the order in which a person would try them."""
    environment = {**os.environ, "LOCKSPACEFS_LAB": str(tmp_path / "lab")}

    def lab(*words):
        return subprocess.run([LAB, *words], env=environment, capture_output=True, text=True, timeout=90)

    try:
        assert lab("status").returncode == 125
        assert "2 node(s) ready" in lab("up", "2", "mount=0").stdout
        assert "already up" in lab("up", "2").stderr
        assert lab("exec", "1", "--", "echo", "a  b").stdout == "a  b\n"
        assert lab("exec", "2", "echo a  b; exit 7").returncode == 7
        assert lab("exec", "1", "pwd").stdout == f"{os.getcwd()}\n"
        assert lab("exec", "-t", "1").returncode == 2
        assert lab("exec", "1", "-t", "0.5", "sleep 9").returncode == 124
        assert "members: 1 2" in lab("status").stdout
        assert "DLM is ready" in lab("console", "1").stdout
        assert lab("cut", "2").returncode == lab("heal", "2").returncode == 0
        assert lab("freeze", "2").returncode == lab("crash", "2").returncode == 0
        assert "node 2: down" in lab("status").stdout
        assert lab("start", "2").returncode == 0
        assert lab("exec", "2", "hostname").stdout == "node2\n"
    finally:
        assert lab("down").returncode == 0
    assert guests_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
