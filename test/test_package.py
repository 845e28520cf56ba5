"""What is distributed: the tarball, what is installed from it, and the Debian package on a Debian with nothing else."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from lockspacefs_test import PROJECT, copy_of_the_tree

PATIENCE = 300                                  # seconds for a build, or for a Debian from its mirror
ENVIRONMENT = {**{name: value for name, value in os.environ.items() if name not in ("DESTDIR", "LOCKSPACEFS")},
               "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]    # mounts and processes end with the command
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

# What Debian adds, and what it compresses.
ADDED = {"etc/default/lockspacefs", f"{DOCUMENTS}/changelog.gz", f"{DOCUMENTS}/copyright"}


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
    path.chmod(0o755)                           # for the user as whom apt fetches
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
    """What meson dist packs, unpacked. It is built and tested as a package, below."""
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


# --- the Debian package ----------------------------------------------------

class System:
    """A Debian below a directory. What is run in it has processes, mounts and a /dev/fuse, and nothing of it is left."""

    def __init__(self, root, making, log):
        self.root = root
        self.files_before = None
        self._making = making
        self._log = log

    def wait_until_made(self):
        assert self._making.wait(timeout=PATIENCE) == 0, self._log.read_text()

    def run(self, script):
        """Lines of bash, each of which has to succeed; what they print."""
        enter = ('mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && '
                 'exec env -u TMPDIR chroot "$0" bash -eu -o pipefail -c "$1"')
        return run(*APART, "bash", "-c", enter, self.root, script)

    def files(self):
        """What packages and programs may leave there: all but the books that apt and dpkg keep."""
        kept = ("var/lib/dpkg/", "var/lib/apt/", "var/cache/", "var/log/", "etc/ld.so.cache", "dev/", "proc/", "run/")
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")
                if not str(path.relative_to(self.root)).startswith(kept)}


@pytest.fixture(scope="module")
def debian(place):
    """With little more than apt, mount and man, from the mirrors of this one. It is made while the package is built."""
    root = place / "debian"
    mirrors = run("apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
                  "Created-By: Packages", "Origin: Debian").splitlines()
    log = place / "mmdebstrap.log"
    with open(log, "w", encoding="utf-8") as output:
        making = subprocess.Popen(
            [*APART, "--mount-proc", "mmdebstrap", "--mode=root", "--variant=apt", "--include=man-db,mount",
             "--skip=cleanup/apt/lists", "--dpkgopt=force-unsafe-io", "bookworm", root, *mirrors],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=ENVIRONMENT)
    system = System(root, making, log)
    try:
        yield system
        making.wait(timeout=PATIENCE)
    finally:
        making.kill()


@pytest.fixture(scope="module")
def package(debian, place, tarball):
    """Built from the tarball alone."""
    output = place / "packages"
    output.mkdir()
    before = files_below(tarball)
    path = Path(run(tarball / "src/system/build-deb", output).strip())
    assert list(output.iterdir()) == [path]
    assert files_below(tarball) == before
    return path


def field(package, name):
    return run("dpkg-deb", "--field", package, name).strip()


def test_package_has_the_version_of_the_source(package):
    assert field(package, "Version") == version()


def test_package_depends_on_what_it_links(package):
    depends = re.findall(r"(?:^|, )([\w.+-]+)", field(package, "Depends"))
    assert sorted(depends) == [
        "fuse3", "libc6", "libcap-ng0", "libdlm3", "libfuse3-3", "libglib2.0-0", "libjson-glib-1.0-0", "libquorum5", "libseccomp2",
        "libsystemd0"]


def test_package_has_every_file_in_its_place(package):
    found = {}
    for line in run("dpkg-deb", "--contents", package).splitlines():
        mode, owner, *_, name = re.sub(" (->|link to) .*", "", line).split()
        assert owner == "root/root"
        found[name.removeprefix("./")] = mode
    names = {name for name in found if name[-1:] not in ("", "/")}
    compressed = {f"{name}.gz" if re.search(r"/man/|/README.md$", name) else name for name in INSTALLED}
    assert names == compressed | EXAMPLES | ADDED
    for name in names - EXAMPLES:
        assert found[name] in ("lrwxrwxrwx", "-rwxr-xr-x" if name in PROGRAMS else "-rw-r--r--"), name


def test_package_is_as_debian_wants_it(package):
    said = run("lintian", "--allow-root", "--fail-on", "none", "--tag-display-limit", "0", package)
    assert [line for line in said.splitlines() if line.startswith(("E:", "W:"))] == []


# --- installed -------------------------------------------------------------

@pytest.fixture(scope="module")
def installed(debian, package):
    """The package on that Debian, which knows what files were there before."""
    debian.wait_until_made()
    debian.files_before = debian.files()
    shutil.copy(package, debian.root / "tmp")
    debian.run(f"apt-get install -qq --no-install-recommends /tmp/{package.name}")
    (debian.root / "tmp" / package.name).unlink()
    return debian


def test_program_says_its_version(installed):
    assert installed.run("lockspacefs --version").split()[1] == version()


def test_manual_pages_are_found(installed):
    for page in ["1 lockspacefs-run", "1 lockspacefs-status", "5 lockspacefs", "8 lockspacefs", "8 mount.lockspacefs"]:
        section, name = page.split()
        assert Path(installed.run(f"man -w {page}").strip()).name in (f"{name}.{section}.gz", "lockspacefs.8.gz")


SESSION = """
mkdir /dlm
mount -t lockspacefs none /dlm -o engine=local,allow_other
findmnt -n -o FSTYPE /dlm
mkdir /dlm/web
exec 9>/dlm/web/.ex/deploy
flock -n /dlm/web/deploy echo mine || echo somebody has it
exec 9>&-
flock -n /dlm/web/deploy echo mine
echo "rev 42" >/dlm/web/.ex/rev
cat /dlm/web/.pr/rev
rmdir /dlm/web
umount /dlm
mountpoint -q /dlm || echo unmounted
while grep -qs lockspacefs /proc/[0-9]*/comm; do sleep 0.05; done
rmdir /dlm
"""


def test_session_of_a_new_user(installed):
    assert installed.run(SESSION).splitlines() == [
        "fuse.lockspacefs", "somebody has it", "mine", "rev 42", "unmounted"]


def test_quickstart_needs_nothing_but_the_package(installed):
    said = installed.run(f"/{DOCUMENTS}/examples/quickstart")
    assert "That was all." in said.splitlines()[-1]


def test_service_waits_for_its_administrator(installed):
    """Without a cluster it could not start: it is neither enabled nor started by the installation."""
    assert list((installed.root / "etc/systemd").rglob("*lockspacefs*")) == []


def test_purge_leaves_nothing(installed):
    installed.run("mkdir -p /dlm")              # as tmpfiles.d does where there is systemd
    installed.run("apt-get purge -qq --autoremove lockspacefs")
    assert installed.files() - installed.files_before == set()
