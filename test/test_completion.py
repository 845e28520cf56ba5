"""Bash completes what lockspacefs takes: in an interactive bash, on a terminal, with Debian's bash-completion."""

import os

import pytest

from lockspacefs_test import MODES, PROJECT, daemon_path
from test_run import Terminal

INSERT_ALL = "\x1b*"                            # readline's insert-completions
SHOW_LINE = "\x01printf '%s|' line \x05 end\n"   # the words that then stand there


@pytest.fixture
def bash(directory):
    """A bash that has the completion, and lockspacefs in its path; complete(line) has the words after the TAB."""
    (directory / "bin").mkdir()
    (directory / "bin/lockspacefs").symlink_to(daemon_path().resolve())
    terminal = Terminal("--noprofile", "--norc", "-i", TERM="dumb", PATH=f"{directory}/bin:{os.environ['PATH']}", INPUTRC="/dev/null")
    terminal.shows("prompt:")
    terminal.types("bind 'set enable-bracketed-paste off'; stty -echo columns 1000; "
                   f". /usr/share/bash-completion/bash_completion; . {PROJECT}/src/system/lockspacefs.bash; cd {directory}; echo re''ady\n")
    terminal.shows("ready\r\n")
    terminal.shows("prompt:")
    yield terminal
    terminal.end()


def complete(bash, line):
    """The words of the line when all completions of its last word are inserted, but those before."""
    bash.types(line + INSERT_ALL + SHOW_LINE)
    words = bash.shows(r"(?s)line\|(.*?)\|end\|")[1].split("|")
    bash.shows("prompt:")
    return words[len(line.split()) - (not line.endswith(" ")):]


def test_options_and_commands(bash, directory):
    (directory / "mountpoint").mkdir()
    (directory / "file").touch()
    assert set(complete(bash, "lockspacefs -")) == {"-f", "-d", "-o", "-h", "--help", "-V", "--version"}
    words = set(complete(bash, "lockspacefs "))
    assert {"run", "mountpoint"} <= words and "file" not in words
    assert complete(bash, "lockspacefs ru") == ["run"]
    assert complete(bash, "lockspacefs -f mo") == ["mountpoint"]


def test_lists_of_mount_options(bash):
    everything = complete(bash, "lockspacefs -o ")
    assert {"engine=", "mode=", "uid=", "gid=", "keep", "allow_other", "max_waiters=", "spin=", "lockspace_flags="} <= set(everything)
    assert complete(bash, "lockspacefs -o eng") == ["engine="]
    assert complete(bash, "lockspacefs -o engine=") == ["engine=dlm", "local"]
    assert complete(bash, "lockspacefs -o engine=lo") == ["engine=local"]
    assert complete(bash, "lockspacefs -o engine=local,all") == ["engine=local,allow_other"]
    assert complete(bash, "lockspacefs -o keep,engine=lo") == ["keep,engine=local"]
    assert complete(bash, "lockspacefs -o allow_other,uid=nob") == ["allow_other,uid=nobody"]
    assert complete(bash, "lockspacefs -o wait=") == ["wait="]


def test_status(bash, mount):
    assert set(complete(bash, "lockspacefs status --")) == {"--help", "--json", "--quiet", "--wait="}
    assert complete(bash, "lockspacefs status --js") == ["--json"]
    assert str(mount) in complete(bash, "lockspacefs status ")
    assert complete(bash, "lockspacefs status -w ") == []


def test_run(bash, lockspace):
    (lockspace / "deploy").touch()
    assert set(complete(bash, "lockspacefs run --")) == {"--help", "--mode=", "--nonblock", "--wait=", "--conflict-exit-code=",
                                                        "--kill-after=", "--value=", "--yield="}
    assert complete(bash, "lockspacefs run -m ") == sorted(MODES)
    assert complete(bash, "lockspacefs run --mode=p") == ["--mode=pr", "pw"]
    assert complete(bash, "lockspacefs run -y USR") == ["USR1", "USR2"] or complete(bash, "lockspacefs run -y SIGUSR") == ["SIGUSR1", "SIGUSR2"]
    assert complete(bash, f"lockspacefs run -n {lockspace}/de") == [f"{lockspace}/deploy"]
    assert complete(bash, f"lockspacefs run -w 5 {lockspace}/deploy base6") == ["base64"]
    assert complete(bash, f"lockspacefs run --wait=5 {lockspace}/deploy -- base6") == ["base64"]
    assert complete(bash, f"lockspacefs run {lockspace}/deploy timeout --sig") == ["--signal="]
