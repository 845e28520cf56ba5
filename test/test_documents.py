"""What README.md, the manual pages and the examples say is true: their commands run and print what stands there."""

import errno
import os
import re
import signal
import subprocess
import time

import pytest

from lockspacefs_test import (PROJECT, TIMEOUT, Daemon, copy_of_the_tree, daemon_path, is_mounted, lockspacefs,
                              processes_with, umount, wait_until)

README = PROJECT / "README.md"
MANUAL = {page.name: page for page in sorted((PROJECT / "man").glob("*.[1-8]"))}
PROGRAM_PAGE, TREE_PAGE = MANUAL["lockspacefs.8"], MANUAL["lockspacefs.5"]
CLUSTER_HEADING = "A cluster on one laptop"
MARK = "==== end of block ===="
DEBIAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 400                                  # seconds for two builds, or for a cluster


# --- the commands of a document --------------------------------------------

def section(name, path=README):
    """The text below a heading of a Markdown file."""
    return re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", path.read_text(), re.M | re.S)[1]


def blocks(markdown):
    """Each block of shell commands with the output that follows it, or None."""
    found = re.findall(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", markdown, re.M | re.S)
    return [(commands, output or None) for commands, output in found]


def examples(manual):
    """The displays of a page's EXAMPLES, as one block for each command: after "# ", then what it prints."""
    text = re.search(r"^\.Sh EXAMPLES\n(.*?)(?=^\.Sh )", manual.read_text(), re.M | re.S)[1]
    found = []
    for display in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text, re.M | re.S):
        assert "\\" not in display              # nothing for roff to change
        for command in re.findall(r"^# (.*\n)((?:[^#].*\n)*)", display, re.M):
            found.append(command)
    return found


def run_blocks(script_blocks, cwd, **environment):
    """Run them in one shell. A block with an output prints just that; in one without, each command succeeds."""
    script = ""
    for commands, output in script_blocks:
        script += f"set {'-e' if output is None else '+e'}\n{commands}\nset +e\necho '{MARK}'\n"
    shell = subprocess.Popen(["bash", "-c", script], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, start_new_session=True,
                             env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": DEBIAN_PATH, **environment})
    try:
        said = shell.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        pytest.fail(f"still running after {PATIENCE} s: {shell.communicate()[0]}")
    outputs = said.split(f"{MARK}\n")
    assert len(outputs) == len(script_blocks) + 1 and shell.returncode == 0, said
    for (commands, expected), output in zip(script_blocks, outputs):
        if expected is not None:
            # of the lab's own messages those of jobs on a crashed node come when they like
            lines = [line for line in output.splitlines() if not line.startswith("lab: ")]
            assert lines == expected.splitlines(), commands


def elsewhere(script_blocks, mountpoint):
    """The same with another directory in place of /dlm."""
    def rewrite(text):
        return text and re.sub(r"(?<![\w./])/dlm\b", str(mountpoint), text)
    return [(rewrite(commands), rewrite(output)) for commands, output in script_blocks]


@pytest.fixture
def path(directory):
    """A PATH with the daemon, and an apt-get that only looks whether the packages exist and are there."""
    programs = directory / "bin"
    programs.mkdir()
    (programs / "lockspacefs").symlink_to(daemon_path().resolve())
    (programs / "apt-get").write_text(
        "#!/bin/sh\n"
        "for word; do case $word in -*|install|update) ;;\n"
        "*.deb) dpkg-deb --info \"$word\" >/dev/null || exit 1 ;;\n"
        "*) dpkg-query -W -f '${Status}' \"$word\" | grep -q 'ok installed' || exit 1 ;;\n"
        "esac; done\n")
    (programs / "apt-get").chmod(0o755)
    return f"{programs}:{DEBIAN_PATH}"


@pytest.fixture
def mountpoint(directory):
    """In place of /dlm; what is mounted there is taken away."""
    place = directory / "dlm"
    yield place
    while is_mounted(place):
        umount(place, lazily=True)


# --- README.md -------------------------------------------------------------

def test_readme_works_as_typed(directory, mountpoint, path):
    """All of it but the cluster, from the build to the installation."""
    text = README.read_text().replace(section(CLUSTER_HEADING), "")
    readme_blocks = elsewhere(blocks(text), mountpoint)
    assert len(readme_blocks) > 5
    run_blocks(readme_blocks, copy_of_the_tree(directory), PATH=path, DESTDIR=str(directory / "root"))
    assert not is_mounted(mountpoint)
    installed = directory / "root/usr/local"
    assert os.access(installed / "sbin/lockspacefs", os.X_OK)
    for page in MANUAL:
        assert (installed / f"share/man/man{page[-1]}" / page).exists()


def test_cluster_demonstration(directory, path):
    """The cluster in README.md. test/run has it among the tests of the cluster, since it boots guests."""
    cluster_blocks = blocks(section(CLUSTER_HEADING))
    assert len(cluster_blocks) > 3
    state = directory / "lab"
    environment = {"PATH": path, "LOCKSPACEFS_LAB": str(state), "LOCKSPACEFS": str(daemon_path().resolve())}
    try:
        run_blocks(cluster_blocks, PROJECT, **environment)
        assert not state.exists()
    finally:
        subprocess.run([PROJECT / "test/cluster/lab", "down"], env={**os.environ, **environment}, check=True)
    wait_until(lambda: not processes_with(state), what="the end of the cluster")


@pytest.mark.parametrize("document", ["README.md", "src/README.md", "examples/README.md", "test/cluster/README.md", "test/soak/README.md"])
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", (PROJECT / document).read_text()):
        assert (PROJECT / document).parent.joinpath(target).exists(), target


def test_the_map_of_the_code_names_every_file():
    text = (PROJECT / "src/README.md").read_text()
    named = set(re.findall(r"`([\w-]+\.c)`", text))
    assert named == {source.name for source in (PROJECT / "src").glob("*.c")}


def test_readme_of_the_examples_names_packages_that_are_there(directory, path):
    [(install, _)] = blocks((PROJECT / "examples/README.md").read_text())
    run_blocks([(install, None)], directory, PATH=path)


# --- what C programs get ---------------------------------------------------

PROGRAM = """
#include <stdio.h>
#include <lockspacefs.h>

int main(void)
{
        char file_name[LOCKSPACEFS_FILE_NAME_MAX + 1];
        size_t len = lockspacefs_file_name(".a/b%2F\\n", 8, file_name);

        printf("/dlm/web/" LOCKSPACEFS_EX "/%s %u\\n", file_name, (unsigned)len);
        return 0;
}
"""


@pytest.fixture
def installed(directory):
    """The root of an installation."""
    build = daemon_path().resolve().parent.parent
    subprocess.run(["meson", "install", "--no-rebuild", "-C", build], env={**os.environ, "DESTDIR": str(directory / "root")},
                   check=True, capture_output=True, timeout=PATIENCE)
    return directory / "root"


@pytest.mark.parametrize("compiler", ["gcc -std=c89", "gcc -std=c11", "g++ -x c++ -std=c++98"])
def test_a_program_that_uses_the_header(directory, installed, compiler):
    """The name of a file is that of lockspacefs(5), Names."""
    environment = {**os.environ, "PKG_CONFIG_PATH": str(installed / "usr/local/share/pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(installed)}
    (directory / "program.c").write_text(PROGRAM)
    for command in [f"{compiler} -pedantic -Wall -Wextra -Werror program.c $(pkg-config --cflags --libs lockspacefs) -o program",
                    "pkg-config --variable=engines lockspacefs"]:
        done = subprocess.run(["sh", "-ec", command], cwd=directory, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "dlm,local\n"
    assert subprocess.run([directory / "program"], capture_output=True, text=True).stdout == "/dlm/web/.ex/%2Ea%2Fb%252F%0A 16\n"


# --- the manual ------------------------------------------------------------

@pytest.mark.parametrize("page", MANUAL)
def test_manual_is_clean(page):
    done = subprocess.run(["mandoc", "-T", "lint", MANUAL[page]], capture_output=True, text=True, timeout=TIMEOUT)
    # whether other programs' pages are on this machine is not the point
    assert [line for line in done.stdout.splitlines() if "referenced manual not found" not in line] == []


@pytest.mark.parametrize("page", [
    "lockspacefs.5",
    "lockspacefs-status.1",
])
def test_examples_of_the_manual_of_what_is_mounted(directory, path, page):
    with Daemon(directory) as daemon:
        run_blocks(elsewhere(examples(MANUAL[page]), daemon.mountpoint), directory, PATH=path)


def test_examples_of_the_manual_of_the_program(directory, mountpoint, path):
    run_blocks(elsewhere(examples(PROGRAM_PAGE), mountpoint), directory, PATH=path)
    assert not is_mounted(mountpoint)


def test_single_commands_of_the_manual_are_well_formed(directory):
    """They are not to end, or need a cluster: all that they may lack here is the mount point."""
    commands = re.findall(r"^\.Dl lockspacefs (.*)$", PROGRAM_PAGE.read_text(), re.M)
    assert len(commands) >= 2
    for command in commands:
        *words, last = command.split()
        assert last == "/dlm"
        done = lockspacefs(*words, directory / "missing")
        assert done.returncode == 2 and "No such file" in done.stderr


def options_of_the_program():
    """The option table, as typed; and apart, what is accepted and ignored."""
    table = re.search(r"fuse_opt table\[\] = \{(.*?)\n\};", (PROJECT / "src/options.c").read_text(), re.S)[1]
    found = re.findall(r'^\s*(?:FUSE_OPT_KEY\(|TEXT\(|\{ )"([^"=]+)(?:=%s)?", *(.*)$', table, re.M)
    return ([name for name, rest in found if "DISCARD" not in rest],
            [name for name, rest in found if "DISCARD" in rest])


def test_help_and_manual_have_the_options_in_the_order_of_the_program():
    expected, _ = options_of_the_program()
    assert expected[:2] == ["-f", "-d"] and "engine" in expected
    helped = []
    for line in lockspacefs("--help").stdout.splitlines():
        if match := re.match(r" {2,4}((?:-\w, )?[\w-]\S*(?:, \S+)?)(?:  |$)", line):
            helped += [re.sub(r"[=\[].*", "", word) for word in match[1].split(", ")]
    assert [word for word in helped if not word.startswith("-o")] == expected
    options = re.search(r"^\.Sh OPTIONS\n(.*?)(?=^\.Ss )", PROGRAM_PAGE.read_text(), re.M | re.S)[1]
    manual = []
    for item in re.findall(r"^\.It (.*)$", options, re.M):
        manual += [f"-{name}" if kind == "Fl" else name for kind, name in re.findall(r"(?:^|, )(Fl|Cm) (\S+)", item)]
    assert [word for word in manual if word != "-o"] == expected


@pytest.mark.parametrize("command", ["status"])
def test_help_and_manual_of_a_command_have_the_same_options(command):
    helped = re.findall(r"^  (-\w), (--\w+)", lockspacefs(command, "--help").stdout, re.M)
    manual = re.findall(r"^\.It Fl (\w)(?: Ar \w+)? , Fl (-\w+)", MANUAL[f"lockspacefs-{command}.1"].read_text(), re.M)
    assert len(helped) > 2
    assert [(f"-{short}", f"-{long}") for short, long in manual] == helped


def test_manual_names_what_is_ignored():
    _, ignored = options_of_the_program()
    page = PROGRAM_PAGE.read_text()
    assert len(ignored) > 5
    for name in ignored:
        assert re.search(rf"[ ,]{re.escape(name)}\b|^\.Cm {re.escape(name)}$", page, re.M), name


def test_manual_has_the_default_limits_of_the_program():
    defaults = re.findall(r"max_\w+=N .*\((\d+)\)", lockspacefs("--help").stdout)
    assert len(defaults) == 3
    for page in PROGRAM_PAGE, TREE_PAGE:
        for number in defaults:
            assert number in page.read_text()
    for number in defaults:
        assert f"{int(number):,}" in README.read_text()


def test_manual_has_the_options_of_run():
    """In the order of --help, in the synopsis by their letters."""
    helped = re.findall(r"^  (-\w), --([\w-]+)", lockspacefs("run", "--help").stdout, re.M)[1:]
    page = MANUAL["lockspacefs-run.1"].read_text()
    items = re.findall(r"^\.It Fl (\w)(?: Ar \w+)? , Fl -([\w-]+)", page, re.M)
    assert [(f"-{letter}", name) for letter, name in items[:-1]] == helped and items[-1] == ("h", "help")
    synopsis = re.search(r"^\.Sh SYNOPSIS\n(.*?)^\.Ar lockfile", page, re.M | re.S)[1]
    assert [f"-{letter}" for letter in re.findall(r"\bFl (\w)\b", synopsis)] == [letter for letter, _ in helped]


def listed_errors():
    text = re.search(r"^\.Sh ERROR NUMBERS\n(.*?)(?=^\.Sh )", TREE_PAGE.read_text(), re.M | re.S)[1]
    return re.findall(r"^\.It Bq Er (\w+)", text, re.M)


def test_error_numbers_of_the_manual_exist():
    listed = listed_errors()
    assert listed == sorted(set(listed)) and len(listed) > 20
    for page in MANUAL.values():
        for name in re.findall(r"\bEr (E[A-Z]+)", page.read_text()):
            assert hasattr(errno, name), name
            assert name in listed or name == "EWOULDBLOCK", name


INTERNAL = {"EREMOTE", "ECANCELED"}             # between the engines and the tree; nobody outside gets them


def test_manual_has_the_error_numbers_of_the_tree():
    """Whatever the files of the tree answer with."""
    answered = set()
    for name in ["control", "fs", "handle", "holder", "lock", "lockspace", "name", "permission", "request", "resource", "user"]:
        answered |= set(re.findall(r"-(E[A-Z]{3,})\b", (PROJECT / "src" / f"{name}.c").read_text()))
    assert answered - INTERNAL - set(listed_errors()) == set()


# --- examples/quickstart ---------------------------------------------------

def start_quickstart(directory):
    return subprocess.Popen([PROJECT / "examples/quickstart"], cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True,
                            env={**os.environ, "LOCKSPACEFS": str(daemon_path().resolve()), "TMPDIR": str(directory)})


def left_by_quickstart(directory):
    return list(directory.iterdir()) + processes_with(directory)


def test_quickstart_shows_it_all_and_leaves_nothing(directory):
    quickstart = start_quickstart(directory)
    said = quickstart.communicate(timeout=PATIENCE)[0]
    assert quickstart.returncode == 0, said
    for line in ["$ mkdir dlm/web", "somebody has it", "mine", "rev 42",
                 "rmdir: failed to remove 'dlm/web': Device or resource busy", "echo: write error: Stale file handle"]:
        assert line in said.splitlines()
    assert re.search(r"^(A begins\nA ends\nB begins\nB ends|B begins\nB ends\nA begins\nA ends)$", said, re.M)
    assert left_by_quickstart(directory) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_quickstart_interrupted_leaves_nothing(directory, number):
    quickstart = start_quickstart(directory)
    said = ""
    while said != "$ wait\n":                   # for its two jobs
        said = quickstart.stdout.readline()
        assert said, "it ended before its jobs did"
    os.killpg(quickstart.pid, number)
    begin = time.monotonic()
    rest = quickstart.communicate(timeout=PATIENCE)[0]
    assert quickstart.returncode == 1 and "quickstart: interrupted" in rest
    assert time.monotonic() - begin < 20
    assert left_by_quickstart(directory) == []


def test_quickstart_says_what_is_wrong(directory):
    done = subprocess.run([PROJECT / "examples/quickstart"], cwd=directory, capture_output=True, text=True, timeout=PATIENCE,
                          env={**os.environ, "LOCKSPACEFS": "/usr/bin/true", "TMPDIR": str(directory)})
    assert done.returncode == 1
    assert "quickstart: " in done.stderr
    assert left_by_quickstart(directory) == []
