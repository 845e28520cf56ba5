"""`lockspacefs status`, for people and for machines."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import time

import pytest

from locking import WAYS, by, let_go, start_waiter, taken
from lockspacefs_test import (NOBODY, SOMEBODY, daemon_path, impostor, is_in_use, lockspacefs, make_lockspace, never_opened, opened,
                              processes_with, shell, status, touch, umount, wait_until)

HEALTHY, DEGRADED, DOWN, UNKNOWN = range(4)


def run_status(*arguments, **kwargs):
    done = lockspacefs("status", *arguments, **kwargs)
    if done.returncode != UNKNOWN:
        assert done.stderr == ""
    return done


def look(mount, *arguments, code=HEALTHY, **kwargs):
    """What --json says of one mount."""
    done = run_status("--json", *arguments, mount, **kwargs)
    assert done.returncode == code, done.stdout + done.stderr
    (seen,) = json.loads(done.stdout)["mounts"]
    assert seen["mountpoint"] == str(mount)
    return seen


def text_of(mount, *arguments, code=HEALTHY, **kwargs):
    done = run_status(*arguments, mount, **kwargs)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def lockspace_in(seen, name):
    (found,) = [lockspace for lockspace in seen["lockspaces"] if lockspace["name"] == name]
    return found


# --- healthy -------------------------------------------------------------------

def test_what_runs_there(mount, engine):
    seen = look(mount)
    assert (seen["health"], seen["problems"], seen["lockspaces"]) == ("healthy", [], [])
    assert seen["engine"] == engine and seen["version"] in lockspacefs("--version").stdout.split()
    assert seen["node"] == status(mount)["node"]
    assert 0 <= seen["seconds"] < 60 and seen["requests"] > 0 and seen["ending"] is False
    if engine == "local":
        assert (seen["members"], seen["quorum"], seen["control"]) == (None, None, None)
    else:
        assert (seen["members"], seen["quorum"], seen["control"]) == ([seen["node"]], True, True)


def test_lockspaces_with_owner_and_mode(mount):
    web = make_lockspace(mount, "web", 0o2770)
    make_lockspace(mount, "a+b#c", 0o755)
    os.chown(web, NOBODY, SOMEBODY)
    touch(web / "listed")
    seen = look(mount)
    assert [lockspace["name"] for lockspace in seen["lockspaces"]] == ["a+b#c", "web"]
    found = lockspace_in(seen, "web")
    mode = f"{stat.S_IMODE(web.stat().st_mode):04o}"
    assert (found["uid"], found["owner"], found["gid"], found["group"], found["mode"]) == (NOBODY, "nobody", SOMEBODY, None, mode)
    assert (found["state"], found["files"], found["held"], found["waiting"], found["locks"]) == ("active", 1, 0, 0, [])
    assert re.search(rf"^web +nobody +{SOMEBODY} +{mode} +1 +0 +0  active$", text_of(mount), re.M)


@pytest.mark.parametrize("way", WAYS)
def test_who_holds_and_who_waits(lockspace, way):
    with taken(way, lockspace, "deploy"):
        child = start_waiter(way, lockspace, "deploy")
        seen = lockspace_in(look(lockspace.parent), "web")
        assert (seen["held"], seen["waiting"]) == (1, 1)
        holder, queued = seen["locks"]
        node = status(lockspace.parent)["node"]
        command = open("/proc/self/comm").read().strip()
        for row, pid in [(holder, os.getpid()), (queued, child.pid)]:
            assert 0 <= row.pop("seconds") < 60
            assert (row["resource"], row["node"], row["pid"], row["command"], row["by"]) == ("deploy", node, pid, command, by(way))
        assert (holder["state"], holder["mode"], holder["wanted"]) == ("held", "EX", None)
        assert (queued["state"], queued["mode"], queued["wanted"]) == ("waiting", None, "EX")
        text = text_of(lockspace.parent)
        assert re.search(rf"^web/deploy  held +EX +- +{node} +{os.getpid()}  {re.escape(command)} +{by(way)} +00:\d\d$", text, re.M)
        assert re.search(rf"^web/deploy  waiting +- +EX +{node} +{child.pid}  {re.escape(command)} +{by(way)} +00:\d\d$", text, re.M)
    child.wait_for("locked")
    let_go(child)


def test_columns_are_aligned_whatever_the_names(mount):
    web = make_lockspace(mount, "web")
    names = ["a", "ein langer Name", "漢字", "e\u0301", "tab%09here", "\u0085x"]
    fds = [os.open(web / ".ex" / name, os.O_RDWR) for name in names]
    text = text_of(mount)
    os.close(fds.pop())
    for fd in fds:
        os.close(fd)
    table = text[text.index("LOCK "):].splitlines()
    assert len(table) == 1 + len(names)
    wide = {"漢": 2, "字": 2, "\u0301": 0}
    before_state = {sum(wide.get(c, 1) for c in re.match(r".*?  (?=held |STATE )", line)[0]) for line in table}
    assert len(before_state) == 1
    assert "web/tab%09here " in text and "web/%C2%85x " in text


def test_a_name_that_is_no_text(mount):
    """JSON is UTF-8: each byte that is none is written %XX, so that no two names look alike."""
    web = make_lockspace(mount, "web")
    with opened(os.fsencode(web) + b"/.ex/caf\xe9 %25E9"):
        (row,) = lockspace_in(look(mount), "web")["locks"]
        assert row["resource"] == "caf%E9 %25E9"
        assert "web/caf%E9 %25E9 " in text_of(mount)


def test_one_line_for_scripts(lockspace):
    with taken("flock", lockspace, "deploy"):
        assert text_of(lockspace.parent, "-q") == f"{lockspace.parent}: healthy\n"
        found = lockspace_in(look(lockspace.parent, "-q"), "web")
        assert found["held"] == 1 and "locks" not in found


def test_short_and_long_options_are_the_same(mount):
    for short, long in [("-J", "--json"), ("-q", "--quiet"), ("-h", "--help")]:
        assert re.sub(r"\d+", "N", text_of(mount, short)) == re.sub(r"\d+", "N", text_of(mount, long))


def test_many_locks(mount):
    """More than a pipe takes at once."""
    web = make_lockspace(mount, "web")
    fds = [os.open(web / ".ex" / f"r{i:03d}", os.O_RDWR) for i in range(500)]
    rows = lockspace_in(look(mount), "web")["locks"]
    for fd in fds:
        os.close(fd)
    assert [row["resource"] for row in rows] == [f"r{i:03d}" for i in range(500)]


# --- which mounts --------------------------------------------------------------

def test_without_a_mountpoint_all_are_shown(make_daemon):
    mounts = [str(make_daemon().mountpoint) for _ in range(2)]
    done = run_status("--json")
    seen = {found["mountpoint"]: found["health"] for found in json.loads(done.stdout)["mounts"]}
    assert [seen[mount] for mount in mounts] == ["healthy", "healthy"]      # others may be there, too
    lines = run_status("--quiet").stdout.splitlines()
    assert {f"{mount}: healthy" for mount in mounts} <= set(lines)


def test_where_nothing_is_mounted():
    """In a mount namespace of its own, without any of ours."""
    script = "umount -a -l -t fuse.lockspacefs; \"$0\" status \"$@\""
    for options, expected in [([], "down: no lockspacefs is mounted on this machine\n"), (["-J"], None)]:
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, daemon_path(), *options], capture_output=True, text=True)
        assert done.returncode == DOWN and done.stderr == ""
        if expected:
            assert done.stdout == expected
        else:
            assert json.loads(done.stdout) == {"mounts": []}


def test_a_bound_lockspace_is_no_mount_of_its_own(mount, directory):
    web = make_lockspace(mount, "web")
    place = directory / "bound"
    place.mkdir()
    subprocess.run(["mount", "--bind", web, place], check=True)
    try:
        assert str(place) not in run_status("--quiet").stdout
        assert "no lockspacefs" in text_of(place, "-q", code=DOWN)
    finally:
        umount(place)


def test_a_lockspace_is_no_mount_point(mount, lockspace):
    assert text_of(lockspace, "-q", code=DOWN).endswith("it is a lockspace of one: name the mount point\n")


@pytest.mark.parametrize("path", ["/nowhere", "/", "/dev/null"])
def test_no_mount_is_down(path):
    assert run_status("-q", path).returncode == DOWN
    assert look(path, code=DOWN)["health"] == "down"


def test_the_worst_of_several_counts(mount):
    done = run_status("-q", mount, "/nowhere")
    assert done.returncode == DOWN
    assert done.stdout == f"{mount}: healthy\n/nowhere: down: no lockspacefs is mounted there\n"


def test_a_mount_point_named_status(directory, mount):
    """It is written ./status."""
    (directory / "status").mkdir()
    done = subprocess.run([daemon_path(), "-o", "engine=local", "./status"], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = subprocess.run([daemon_path(), "status", "-q", "./status"], cwd=directory, capture_output=True, text=True)
    umount(directory / "status")
    assert (seen.returncode, seen.stdout) == (HEALTHY, "./status: healthy\n")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["-w", "0"], ["-w", "soon"], ["--wait=-1"], ["-w"], ["-w", "3601"]])
def test_a_wrong_command_line(arguments):
    done = run_status(*arguments)
    assert done.returncode == UNKNOWN and done.stdout == ""
    assert done.stderr.startswith("lockspacefs status: ") and done.stderr.endswith("; see --help\n")


def test_help_names_the_command():
    assert "status" in lockspacefs("--help").stdout
    assert "Exit status: 0 healthy" in lockspacefs("status", "--help").stdout


def test_a_full_disk_is_an_error(mount):
    with open("/dev/full", "w") as full:
        done = subprocess.run([daemon_path(), "status", mount], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == UNKNOWN and "No space left" in done.stderr


# --- who looks -----------------------------------------------------------------

def run_as_nobody(mount, *arguments):
    """By a descriptor, since the source tree may be out of his reach."""
    with opened(daemon_path(), os.O_RDONLY) as fd:
        return subprocess.run([f"/proc/self/fd/{fd}", "status", *arguments, str(mount)], user=NOBODY, group=NOBODY, extra_groups=[],
                              pass_fds=[fd], capture_output=True, text=True)


def test_others_see_what_they_may_see(mount):
    closed = make_lockspace(mount, "closed", 0o700)
    opened_up = make_lockspace(mount, "open", 0o755)
    with taken("flock", closed, "a"), taken("flock", opened_up, "b"):
        done = run_as_nobody(mount, "--json")
        seen = json.loads(done.stdout)["mounts"][0]
        assert done.returncode == HEALTHY
        assert lockspace_in(seen, "closed")["locks"] is None and lockspace_in(seen, "closed")["held"] == 1
        assert [row["resource"] for row in lockspace_in(seen, "open")["locks"]] == ["b"]


def test_a_mount_that_is_not_for_us_is_unknown(make_daemon):
    mount = make_daemon(allow_other=False).mountpoint
    done = run_as_nobody(mount, "-q")
    assert done.returncode == UNKNOWN
    assert done.stdout.startswith(f"{mount}: unknown: we may not look")


# --- down, and degraded --------------------------------------------------------

def test_a_dead_mount(make_daemon):
    daemon = make_daemon()
    make_lockspace(daemon.mountpoint)
    daemon.kill()
    assert "the daemon is gone" in text_of(daemon.mountpoint, "-q", code=DOWN)
    assert run_status().returncode == DOWN
    assert look(daemon.mountpoint, code=DOWN)["problems"] == ["the daemon is gone; umount -l takes the dead mount away"]
    umount(daemon.mountpoint, lazily=True)
    assert text_of(daemon.mountpoint, code=DOWN) == f"{daemon.mountpoint}: down: no lockspacefs is mounted there\n"
    daemon.excused = True


def test_a_mount_that_hangs(make_daemon):
    hanging, other = make_daemon(), make_daemon()
    hanging.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        done = run_status("-q", "-w", "3", hanging.mountpoint, other.mountpoint)
        seconds = time.monotonic() - started
    finally:
        hanging.signal(signal.SIGCONT)
    assert done.returncode == DOWN
    assert done.stdout == f"{hanging.mountpoint}: down: no answer within 3 s\n{other.mountpoint}: healthy\n"
    assert 3 <= seconds < 15
    assert text_of(hanging.mountpoint, "-q") == f"{hanging.mountpoint}: healthy\n"


def test_what_we_print_ends_with_us(make_daemon):
    """Whoever reads it from a pipe does not wait for a look that hangs."""
    daemon = make_daemon()
    daemon.signal(signal.SIGSTOP)
    try:
        done = shell(f"x=$({daemon_path()} status -q -w 1 {daemon.mountpoint}); echo \"$? $x\"")
    finally:
        daemon.signal(signal.SIGCONT)
    assert done.stdout == f"2 {daemon.mountpoint}: down: no answer within 1 s\n"
    wait_until(lambda: not is_in_use(daemon.mountpoint), what="the end of the look")


def test_a_daemon_that_is_to_end_is_degraded(make_daemon):
    """The mount is out of sight; who is in it still sees it."""
    daemon = make_daemon()
    make_lockspace(daemon.mountpoint)
    inside = os.open(daemon.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    fd = os.open(daemon.mountpoint / "web" / ".ex" / "deploy", os.O_RDWR)
    daemon.signal(signal.SIGTERM)
    where = f"/proc/{os.getpid()}/fd/{inside}"
    wait_until(lambda: run_status("-q", where).returncode == DEGRADED)
    seen = look(where, code=DEGRADED)
    assert seen["ending"] is True and seen["held"] == 1
    assert seen["problems"] == ["the daemon was told to end, and waits for the files that are open"]
    assert run_status(daemon.mountpoint).returncode == DOWN
    os.close(fd)
    os.close(inside)
    assert daemon.wait() == 0


# --- what only looks like lockspacefs ------------------------------------------

STATUS = "version 1\npid 1\nengine local\nending no\n"
LOCKS = "resource\tstate\tmode\twanted\tnode\tpid\tcommand\tby\tseconds\nsecret\theld\tEX\t-\t1\t1\tsh\topen\t1\n"


def show_lockspace(shown):
    (shown / ".status").write_text(STATUS + "web/state active\n")
    (shown / "web").mkdir()


def test_a_mount_of_our_type_is_read_as_ours(directory, helpers):
    """So that the tests below test something."""
    with impostor(helpers, directory) as (shown, mountpoint):
        show_lockspace(shown)
        (shown / "web" / ".locks").write_text(LOCKS)
        found = lockspace_in(look(mountpoint), "web")
        assert (found["uid"], [row["resource"] for row in found["locks"]]) == (0, ["secret"])


def test_no_link_is_followed(directory, helpers):
    fifo = directory / "outside"
    os.mkfifo(fifo)
    with impostor(helpers, directory) as (shown, mountpoint):
        (shown / ".status").symlink_to(fifo)
        with never_opened(fifo):
            said = f"{mountpoint}: down: no lockspacefs is mounted there\n"
            assert text_of(mountpoint, "-q", code=DOWN) == said
            assert said in run_status("-q").stdout
        (shown / ".status").unlink()
        show_lockspace(shown)
        (shown / "web" / ".locks").symlink_to(fifo)
        with never_opened(fifo):
            assert lockspace_in(look(mountpoint), "web")["locks"] is None


def test_a_fifo_is_not_waited_for(directory, helpers):
    with impostor(helpers, directory) as (shown, mountpoint):
        os.mkfifo(shown / ".status")
        assert text_of(mountpoint, "-q", code=DOWN) == f"{mountpoint}: down: no lockspacefs is mounted there\n"


@pytest.mark.parametrize("name", ["web", "../outside", "../../{top}/outside", ".", "..", ""])
def test_no_lockspace_is_elsewhere(directory, helpers, name):
    """Neither by a link nor by its name."""
    outside = directory / "outside"
    outside.mkdir()
    (outside / ".locks").write_text(LOCKS)
    name = name.format(top=directory.name)
    with impostor(helpers, directory) as (shown, mountpoint):
        (shown / ".status").write_text(f"{STATUS}{name}/state active\n")
        (shown / "web").symlink_to(outside)
        with never_opened(outside / ".locks"):
            found = look(mountpoint)["lockspaces"]
            assert [lockspace["name"] for lockspace in found] == (["web"] if name == "web" else [])
            assert all(lockspace["locks"] is None and "uid" not in lockspace for lockspace in found)


def test_what_does_not_end_is_not_read(directory, helpers):
    with impostor(helpers, directory) as (shown, mountpoint):
        (shown / ".status").touch()
        os.truncate(shown / ".status", 1 << 40)
        assert text_of(mountpoint, "-q", code=DOWN) == f"{mountpoint}: down: {os.strerror(errno.EFBIG)}\n"
        (shown / ".status").unlink()
        show_lockspace(shown)
        (shown / "web" / ".locks").touch()
        os.truncate(shown / "web" / ".locks", 1 << 40)
        assert lockspace_in(look(mountpoint), "web")["locks"] is None


def test_a_mount_that_never_answers(directory, helpers):
    """Its look does not even end by SIGKILL."""
    with impostor(helpers, directory, "mute") as (shown, mountpoint):
        (shown / ".status").write_text(STATUS)
        assert text_of(mountpoint, "-q", "-w", "1", code=DOWN) == f"{mountpoint}: down: no answer within 1 s\n"
        assert is_in_use(mountpoint)
    wait_until(lambda: not processes_with(mountpoint), what="the end of the look")
