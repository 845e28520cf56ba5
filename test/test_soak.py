"""The soak (test/soak) in its short form, and that its judge finds what it is there to find."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lockspacefs_test import (PROJECT, TIMEOUT, Child, Daemon, get, make_lockspace, opened, put, processes_with, wait_for_exit,
                              wait_until)

SOAK = PROJECT / "test" / "soak"
sys.path[:0] = [str(SOAK), *(str(PROJECT / "test" / name) for name in ("cluster", "faults"))]

import client
import faults
import schedule
import soak
import verdict
import witness
from cluster import Cluster
from locking import taken, wait_for_a_signal, wait_until_queued

SECONDS = 6
DEAD = {"3-0": 100.0}                           # a life that a fault has ended, since when
LOSSES = [(150, 170)]                           # when values may have been lost


# --- the judge -------------------------------------------------------------

def samples(rss=lambda part: 5000, latency=lambda part: 1e-4, baseline=lambda part: 2e-5, fds=lambda part: 10, count=60):
    """@part: of the time, 0 to 1. Everything else is noise."""
    dice = random.Random(1)
    made = []
    for i in range(count):
        part = i / count
        made.append({"sample": 1005 + 5 * i, "since": 1000 + 5 * i, "rss": rss(part) + dice.randrange(64), "threads": 3,
                     "fds": fds(part) + dice.randrange(2),
                     "latency": {"baseline": [50, baseline(part) * dice.uniform(0.8, 1.25), 1e-3],
                                 "flock": [50, latency(part) * dice.uniform(0.7, 1.4), 1e-2]}})
    return made


def slower(times):
    """From the middle on."""
    return samples(latency=lambda part: 1e-4 * (1 if part < 0.5 else times))


FLAT = {
    "nothing grows": {},
    "memory grows while tables do, in the beginning": {"rss": lambda part: 5000 + min(part, 0.3) * 10000},
    "one sample in ten is a hundred times slower": {"latency": lambda part: 1e-2 if int(part * 60) % 10 == 3 else 1e-4},
    "the whole machine becomes slower":
        {"latency": lambda part: 1e-4 * (1 + 4 * part), "baseline": lambda part: 2e-5 * (1 + 4 * part)},
    "the machine becomes quicker": {"baseline": lambda part: 2e-5 / (1 + 4 * part)},
}
NOT_FLAT = {
    "a leak": ({"rss": lambda part: 5000 + 4000 * part}, "KiB of memory grow"),
    "a leak that begins late": ({"rss": lambda part: 5000 + 3000 * max(0, part - 0.6)}, "KiB of memory grow"),
    "a step": ({"rss": lambda part: 5000 if part < 0.7 else 6000}, "KiB of memory grow"),
    "open files": ({"fds": lambda part: 10 + int(20 * part)}, "open files grow"),
    "what takes ever longer": ({"latency": lambda part: 1e-4 * (1 + 2 * part)}, "flock takes longer"),
    "and on a machine that becomes slower":
        ({"latency": lambda part: 1e-4 * (1 + 9 * part), "baseline": lambda part: 2e-5 * (1 + part)}, "flock takes longer"),
}


@pytest.mark.parametrize("what", FLAT)
def test_flat_is_found_flat(what):
    assert verdict.daemons("local", {"o1-0": samples(**FLAT[what])}) == []


@pytest.mark.parametrize("what", NOT_FLAT)
def test_what_is_not_flat_is_found(what):
    series, said = NOT_FLAT[what]
    found = verdict.daemons("local", {"o1-0": samples(), "o2-0": samples(**series)})
    assert [sentence for sentence in found if sentence.startswith(f"o2-0: {said}")], found
    assert len(found) == 1


def test_latency_on_a_cluster_has_a_wider_bound():
    assert verdict.daemons("dlm", {"o1-0": slower(2)}) == []
    assert len(verdict.daemons("dlm", {"o1-0": slower(5)})) == 1


def test_a_few_seconds_are_judged_by_the_gross():
    for times, failures in [(3, 0), (10, 1)]:
        made = [{**sample, "sample": sample["sample"] / 10, "since": sample["since"] / 10} for sample in slower(times)]
        assert len(verdict.daemons("local", {"o1-0": made})) == failures


@pytest.mark.parametrize("seconds, bound", [(50, 8), (100, 4), (400, 2)])
def test_open_files_of_a_short_life_are_a_lockspace_more_or_less(seconds, bound):
    def grown(files):
        made = samples(fds=lambda part: 10 if part < 0.7 else 10 + files)
        return [{**sample, "sample": sample["sample"] * seconds / 300, "since": sample["since"] * seconds / 300} for sample in made]

    assert verdict.daemons("local", {"o1-0": grown(bound // 2)}) == []
    assert len(verdict.daemons("local", {"o1-0": grown(2 * bound)})) == 1


def test_too_little_to_judge_is_a_failure():
    assert verdict.daemons("local", {"o1-0": samples(count=verdict.LEAST_SAMPLES - 1)}) != []
    assert verdict.daemons("local", {}) != []
    assert verdict.daemons("local", {"o1-0": samples(count=verdict.LEAST_SAMPLES), "o2-0": []}) == []


def test_samples_in_the_time_of_a_fault_do_not_count():
    made = samples(count=10)                    # from 1000, 1005 …
    kept = verdict.undisturbed(made, [(1012, 1013), (1031, 1100)])
    assert [sample["since"] for sample in kept] == [1000, 1005, 1015, 1020, 1025]


def test_who_says_nothing_from_calm_to_calm_hangs():
    bursts = [(1030, 1070), (1100, 1140)]       # 30 s of calm between
    assert len(verdict.silence({"1-0": 1001, "2-0": 1040, "3-0": 1160}, bursts, 1165)) == 1
    assert not verdict.silence({"1-0": 1040, "2-0": 1160}, bursts, 1165)
    assert len(verdict.silence({"1-0": 1040, "2-0": 1160}, [], 1165)) == 1


def test_an_errno_that_is_not_listed_is_a_failure():
    def found(engine, counts):
        return verdict.errors(engine, {"1-0": [(200, counts)]}, DEAD)

    assert found("local", {"flock ex EINTR": 5, "open .ex EAGAIN": 1, "mkdir EEXIST": 2, "chmod EINTR": 1}) == []
    for engine, what in [("local", "flock ex EIO"), ("local", "count EIO"), ("dlm", "flock pr EDEADLK"), ("dlm", "stat EIO"),
                         ("dlm", "mkdir ENOSYS")]:
        assert len(found(engine, {what: 1})) == 1
    assert found("dlm", {"count EIO": 1, "read EIO": 3}) == []


@pytest.mark.parametrize("life, time, failures", [("1-0", 200, 1), ("3-0", 90, 1), ("3-0", 99.5, 0), ("3-0", 120, 0)])
def test_what_a_life_was_told_before_its_death_is_judged(life, time, failures):
    assert len(verdict.errors("local", {life: [(80, {"open EINTR": 1}), (time, {"open EIO": 2})]}, DEAD)) == failures


def run_of(*lives):
    run = soak.Run(SimpleNamespace(engine="local", mounts=[], is_disturbed_by_faults=True), 60, seed=1, log=lambda line: None)
    run.lives = list(lives)
    return run


@pytest.mark.parametrize("doomed, failures", [(None, 1), (100, 1), (80, 0)])
def test_a_run_keeps_when_a_life_was_told_what(doomed, failures):
    report = {"report": 90, "ops": {"open": 3}, "errors": {"open EIO": 2}}
    life = soak.Life("3", 0, None, SimpleNamespace(output=SimpleNamespace(more=lambda: json.dumps(report) + "\n")))
    life.listen()
    life.doomed = doomed
    assert len([sentence for sentence in run_of(life).judge() if "open EIO, 2 times" in sentence]) == failures


def event(wrong, time=200, life="1-0", **what):
    return {"wrong": wrong, "time": time, "life": life, **what}


EXCUSED = [
    event("errno", what="open: ENOTCONN", errno="ENOTCONN", life="3-0"),
    event("exclusion", marker="ex.3-0"),
    event("value", resource="a", seen="0:4@2-0", found="0:5@3-0", new="f:1@1-0"),
    event("value", resource="a", seen="0:4@2-0", found="e:1@3-0", new="f:1@1-0"),
    event("value", resource="a", seen=None, found="0:4@2-0", new="f:1@1-0", time=151),
    event("value", resource="a", seen=None, found="0:4@2-0", time=151),
    event("value", resource="a", seen="0:0", found="0:4@2-0", new="f:1@1-0", time=151),
]
INEXCUSABLE = [
    event("errno", what="open: ENOTCONN", errno="ENOTCONN"),
    event("exclusion", marker="ex.2-0"),
    event("exclusion", marker="ex.3-0", time=90),
    event("exclusion", resource="file1", marker="held across an unlink"),
    event("value", resource="a", seen="0:4@2-0", found="0:5@2-0", new="f:1@1-0"),
    event("value", resource="a", seen="0:4@2-0", found="0:5@3-0", new="f:1@1-0", time=90),
    event("value", resource="a", seen="0:4@2-0", found="0:6@3-0", new="f:1@1-0"),
    event("value", resource="a", seen="0:4@2-0", found="0:3@3-0"),
    event("value", resource="a", seen="0:4@2-0", found="e:7@3-0"),
    event("value", resource="a", seen="0:4@3-0", found="e:1@2-0"),
    event("value", resource="a", seen="dust", found="0:5@3-0"),
    event("value", resource="a", seen=None, found="0:4@2-0", new="f:1@1-0", time=140),
    event("value", resource="a", seen="0:0", found="0:4@2-0", new="f:1@1-0", time=140),
    event("value", resource="a", seen=None, found="0:4@2-0", new="f:1@1-0", time=175),
    event("value", resource="a", seen=None, found="0:4@2-0", time=175),
    event("value", resource="a", seen="0:0", found="0:4@2-0", new="f:1@1-0", time=175),
    event("notice", what="nobody was told that somebody waits"),
]


@pytest.mark.parametrize("seen", EXCUSED)
def test_a_fault_excuses_what_it_causes(seen):
    assert verdict.wrongs([seen], DEAD, LOSSES) == []


@pytest.mark.parametrize("seen", INEXCUSABLE)
def test_and_nothing_else(seen):
    assert len(verdict.wrongs([seen], DEAD, LOSSES)) == 1


def test_what_may_be_lost_is_over_with_its_burst(monkeypatch):
    run = run_of()
    run.faults = SimpleNamespace(step=lambda: run.lose_since(1000), heal_all=lambda: None)
    monkeypatch.setattr(run, "_watch", lambda seconds: None)
    run._burst()
    assert run.losses and all(loss == (1000, run.disturbances[0][1]) for loss in run.losses)


def test_one_death_excuses_one_value_that_was_not_written():
    events = [event("value", resource=resource, seen="0:4@2-0", found="0:5@3-0") for resource in ("a", "b")]
    dead = {**DEAD, "4-0": 100.0}
    assert verdict.wrongs(events[:1] * 2, dead, []) == []
    assert len(verdict.wrongs(events, dead, [])) == 1


@pytest.mark.parametrize("begun, writer, failures", [(90, "3-1", 1), (120, "3-1", 0), (120, "2-0", 1)])
def test_an_epoch_that_a_node_has_begun_when_it_was_out_is_not_seen_by_others(begun, writer, failures):
    dead = {**DEAD, "3-1": 100.0}
    events = [event("value", life="3-0", resource="a", seen=None, found="0:4@2-0", new="e:1@3-0", time=begun),
              event("value", resource="a", seen="0:4@2-0", found=f"e:3@{writer}", new="f:1@1-0")]
    assert len(verdict.wrongs(events, dead, [(80, 95)])) == failures


def test_the_witness_sees_who_is_inside_and_how_far_a_counter_is(tmp_path):
    witness.make(tmp_path, ["a"])
    one, two = (witness.Witness(tmp_path, life) for life in ("1-0", "2-0"))
    assert one.enter("a", "pr") == [] and two.enter("a", "cr") == []
    two.leave("a", "cr")
    assert two.enter("a", "ex") == ["pr.1-0"]
    witness.forget(tmp_path, "1-0")
    two.leave("a", "ex")
    assert one.enter("a", "ex") == []
    new = witness.next_value("0:0", "1-0")
    assert one.step("a", "0:0", new) and not two.step("a", "0:0", "0:1@2-0")
    assert two.counter("a") == new == "0:1@1-0"


# --- the faults ------------------------------------------------------------

@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_daemon_is_spared_what_would_end_it(monkeypatch, seed):
    monkeypatch.setattr("cluster.Node.runs", lambda node: True)
    cluster = Cluster(3)
    planned = faults.faults_for(SimpleNamespace(seed=seed, place=SimpleNamespace(engine="dlm", cluster=cluster)))
    hit = set()
    for kind in faults.LOSING - {schedule.THROWN_OUT}:
        chosen = list(filter(None, (planned._possible(kind) for _ in range(30))))
        assert chosen, f"{kind} is not possible any more"
        hit |= {node.number for fault in chosen for node in fault.victims()}
    assert len(hit) == 2


# --- a client --------------------------------------------------------------

def test_a_value_is_written_whole(tmp_path):
    """A counter is begun anew, and the number before was longer."""
    witness.make(tmp_path, ["a"])
    with Daemon(tmp_path) as daemon:
        web = make_lockspace(daemon.mountpoint, "web")
        put(web / ".ex" / "a", b"0123456789:1234567890")
        someone = client.Client(SimpleNamespace(mount=daemon.mountpoint, life="1-0", pause=0, seed=1, witness=tmp_path, interval=1))
        with opened(web / ".ex" / "a") as fd:
            someone.count(fd, "a")
        assert get(web / ".pr" / "a").decode() == someone.witness.counter("a")


# --- the program -----------------------------------------------------------

def test_soak_on_this_machine(tmp_path):
    result = tmp_path / "result"
    done = subprocess.run([SOAK / "run", "--for", f"{SECONDS}s", "--json", result], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("all is well"), done.stdout + done.stderr
    [seen] = json.loads(result.read_text(encoding="utf-8"))
    assert seen["operations"]["count"] > 100 and seen["faults"]["client-kill"] > 0
    for kind in ["convert", "ex", "pr"]:
        assert all(seen["operations"][f"{way} {kind}"] > 0 for way in ["flock", "posix", "ofd"])
    for kind in ["notice", "death", "mkdir", "rmdir by force", "gone", "open .nl", "open .cw", "unlink", ".locks"]:
        assert seen["operations"][kind] > 0


def leftovers():
    return {str(path) for path in Path(tempfile.gettempdir()).glob("lockspacefs-soak-*")}


def test_a_soak_that_is_interrupted_leaves_nothing():
    before = leftovers()
    program = subprocess.Popen([SOAK / "run", "--for", "1h"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    [place] = wait_until(lambda: leftovers() - before)
    wait_until(lambda: list(Path(place).glob("0-0.out")))           # it works
    program.send_signal(signal.SIGTERM)
    assert wait_for_exit(program.pid) and program.wait() == 143
    program.communicate()
    assert place not in leftovers()
    wait_until(lambda: processes_with(place) == [], what="the end of all processes")
    assert not Path(place).exists()


@pytest.mark.parametrize("arguments", [["--for", "5"], ["--for", "0s"], ["--on", "mars"], ["--seed", "x"], ["--faults", "rain"]])
def test_nonsense_is_refused(arguments):
    done = subprocess.run([SOAK / "run", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and arguments[0] in done.stderr


@pytest.mark.parametrize("arguments", [["--soak"], ["--soak", "5"], ["--soak", "unit"], ["unit", "--soak", "0m"]])
def test_test_run_refuses_nonsense(arguments):
    done = subprocess.run([PROJECT / "test" / "run", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: test/run [--soak TIME]")


# --- where it hangs --------------------------------------------------------

def test_what_hangs_is_looked_at(lockspace):
    def hang(peer):
        os.setpgid(0, 0)
        wait_for_a_signal(peer, lockspace / "r")

    with taken("flock", lockspace, "r"):
        waiter = wait_until_queued(lockspace, Child(hang))
        done = subprocess.run([PROJECT / "test" / "look.py", lockspace.parent, str(waiter.pid)], capture_output=True, text=True,
                              timeout=TIMEOUT, check=True)
    said = done.stdout.splitlines()
    processes = [line for line in said if line.startswith("process")]
    assert len(processes) == 1 and processes[0].startswith(f"process {waiter.pid}, thread {waiter.pid}: ")
    assert any(line.endswith(f" -> {lockspace}/r") for line in said)
    assert any({"waiting", str(waiter.pid)} <= set(line.split()) for line in said), done.stdout
