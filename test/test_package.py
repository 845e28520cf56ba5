"""What is distributed: the tarball, and what is installed from it."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from lockspacefs_test import PROJECT, copy_of_the_tree

PATIENCE = 300                                  # seconds for a build
ENVIRONMENT = {**{name: value for name, value in os.environ.items() if name not in ("DESTDIR", "LOCKSPACEFS")},
               "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
UNITS = "lib/systemd/system"                    # where Debian 12 has them
DOCUMENTS = "usr/share/doc/lockspacefs"
MULTIARCH = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()

# All that meson install makes, with Debian's options, but for the examples.
HELPERS = ["mount.lockspacefs", "mount.fuse.lockspacefs", "umount.fuse.lockspacefs"]
PROGRAMS = {
    "usr/sbin/lockspacefs",
    "usr/lib/ocf/resource.d/lockspacefs/lockspacefs",
}
INSTALLED = PROGRAMS | {
    "usr/include/lockspacefs.h",
    "usr/share/pkgconfig/lockspacefs.pc",
    "usr/share/bash-completion/completions/lockspacefs",
    *(f"usr/sbin/{helper}" for helper in HELPERS),
    *(f"usr/share/man/man8/{helper}.8" for helper in HELPERS),
    f"{UNITS}/lockspacefs.service",
    "usr/lib/modules-load.d/lockspacefs.conf",
    "usr/lib/tmpfiles.d/lockspacefs.conf",
    "usr/share/man/man1/lockspacefs-run.1",
    "usr/share/man/man1/lockspacefs-status.1",
    "usr/share/man/man5/lockspacefs.5",
    "usr/share/man/man8/lockspacefs.8",
    f"{DOCUMENTS}/README.md",
}
EXAMPLES = {f"{DOCUMENTS}/examples/{path.name}" for path in (PROJECT / "examples").iterdir() if path.is_file()}


def run(*command):
    """Its standard output; it succeeds."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env=ENVIRONMENT, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-5000:]}{done.stderr[-5000:]}"
    return done.stdout


def version():
    return re.search(r"^  version: '(.*)',$", (PROJECT / "meson.build").read_text(), re.M)[1]


def files_below(directory):
    """All but directories, relative to it."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()}


# --- the tarball -----------------------------------------------------------

@pytest.fixture(scope="module")
def place():
    path = Path(tempfile.mkdtemp(prefix="lockspacefs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def source(place):
    """The tree in a git of its own, so that what is not committed yet counts; its build/ is set up as Debian would."""
    tree = copy_of_the_tree(place)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", tree]
    run(*git, "init", "-q")
    run(*git, "add", "-A")
    run(*git, "commit", "-q", "-m", "as it is")
    run("meson", "setup", tree / "build", tree, "--prefix=/usr", f"--libdir=lib/{MULTIARCH}", "--sysconfdir=/etc",
        "-Ddlm=enabled", "-Dsystemd=enabled", f"-Dsystemdsystemunitdir=/{UNITS}",
        "--buildtype=plain", "-Db_lto=false")   # which are of no matter here, and faster
    return tree


@pytest.fixture(scope="module")
def tarball(source):
    """What meson dist packs, unpacked."""
    run("meson", "dist", "-C", source / "build", "--no-tests")
    run("tar", "-C", source / "build", "-xf", source / f"build/meson-dist/lockspacefs-{version()}.tar.xz")
    return source / f"build/lockspacefs-{version()}"


def test_tarball_has_every_file(source, tarball):
    assert files_below(tarball) == set(run("git", "-C", source, "ls-files").splitlines())


def test_install_puts_every_file_in_its_place(source, place):
    root = place / "installed"
    run("ninja", "-C", source / "build", "src/lockspacefs")
    run("env", f"DESTDIR={root}", "meson", "install", "-C", source / "build", "--no-rebuild")
    assert files_below(root) == INSTALLED | EXAMPLES
    for name in INSTALLED:
        path = root / name
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o755 if name in PROGRAMS else 0o644), name
