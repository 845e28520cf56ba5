"""What the lab needs and where it is: Debian packages, its helper programs, guest kernels, the daemon."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
HELPERS = ["labinit", "labswitch", "dlmlock"]
CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-static"]

# What a node runs, or the lab itself, and the package that brings it.
NEEDED = {
    "/usr/bin/linux.uml": "user-mode-linux",
    "/usr/sbin/corosync": "corosync",
    "/usr/sbin/dlm_controld": "dlm-controld",
    "/lib/udev/rules.d/51-dlm.rules": "dlm-controld",
    "/lib/systemd/systemd-udevd": "udev",
    "/lib/systemd/systemd": "systemd",
    "/sbin/modprobe": "kmod",
    "/usr/bin/fusermount3": "fuse3",
    "/usr/bin/gcc": "gcc",
    "/usr/include/linux/dlm_device.h": "linux-libc-dev",
    "/usr/include/stdio.h": "libc6-dev",
}


class ToolError(Exception):
    pass


def missing_packages() -> list[str]:
    return sorted({package for path, package in NEEDED.items() if not os.path.exists(path)})


def check_packages() -> None:
    if missing := missing_packages():
        raise ToolError(f"missing Debian packages: {' '.join(missing)} ({HERE / 'lab'} install installs them)")


def install() -> None:
    """apt-get install everything that the lab needs, and what lockspacefs is built with."""
    words = " ".join(sorted({*NEEDED.values()}))
    subprocess.run(["bash", "-c", f'. "$0" && install_packages $build_packages $cluster_packages python3-pytest {words}',
                    PROJECT / "test" / "common.sh"], check=True)


def cache_directory() -> Path:
    """Kept between runs; build-kernel chooses the same."""
    if chosen := os.environ.get("LOCKSPACEFS_CACHE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/lockspacefs")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lockspacefs"


def helpers() -> Path:
    """The folder with the helper programs, built now if their source has changed."""
    digest = hashlib.sha256(" ".join(CFLAGS).encode())
    for name in HELPERS:
        digest.update((HERE / f"{name}.c").read_bytes())
    cache = cache_directory()
    finished = cache / f"helpers-{digest.hexdigest()[:12]}"
    if finished.exists():
        return finished
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "helpers.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished.exists():
            return finished
        for outdated in cache.glob("helpers-*"):
            _remove_unless_in_use(outdated)
        building = Path(tempfile.mkdtemp(prefix="helpers-new-", dir=cache))
        try:
            for name in HELPERS:
                _compile(HERE / f"{name}.c", building / name)
            building.chmod(0o755)
            building.rename(finished)           # a folder that exists is one that was finished
        except BaseException:
            shutil.rmtree(building)
            raise
    return finished


def _compile(source: Path, program: Path) -> None:
    done = subprocess.run(["gcc", *CFLAGS, str(source), "-o", str(program)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolError(f"{source.name} does not compile:\n{done.stderr}")


def _remove_unless_in_use(directory: Path) -> None:
    """Guests of a running lab may still exec from it: what is older than a day goes."""
    if time.time() - directory.stat().st_mtime > 86400:
        shutil.rmtree(directory, ignore_errors=True)


def guest_kernel(kind: str, build: bool = False) -> Path:
    """'packaged': Debian's. 'debugfs': the one that build-kernel makes, made now if @build. Else: a path."""
    if kind == "packaged":
        return Path("/usr/bin/linux.uml")
    if kind != "debugfs":
        if not os.access(kind, os.X_OK):
            raise ToolError(f"no guest kernel {kind}: packaged, debugfs or the path of one")
        return Path(kind)
    command = [str(HERE / "build-kernel")] + ([] if build else ["--path"])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None if build else subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise ToolError((done.stderr or "build-kernel failed").strip())
    return Path(done.stdout.strip())


def daemon() -> Path:
    """The lockspacefs to run in the nodes, built or not."""
    return Path(os.environ.get("LOCKSPACEFS") or PROJECT / "build" / "src" / "lockspacefs").absolute()
