#!/usr/bin/python3
"""Where the processes of a group hang, and what the mount says of locks: look.py MOUNT GROUP

A client is named after what it does; a child that it has forked, too.
"""

import os
import sys
from pathlib import Path


def text_of(path):
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        return error.strerror


def group_of(process):
    return int(text_of(process / "stat").rpartition(")")[2].split()[2])


def look_at(process):
    print(f"process {process.name}: {text_of(process / 'comm')}, system call {text_of(process / 'syscall')}")
    print(text_of(process / "stack"))
    for fd in (process / "fd").iterdir():
        print(f"  {fd.name} -> {os.readlink(fd)}")


def main():
    mount, group = Path(sys.argv[1]), int(sys.argv[2])
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if group_of(process) == group:
                look_at(process)
        except (OSError, IndexError) as error:  # it has ended
            print(f"process {process.name}: {error}")
    sys.stdout.flush()                          # the mount may hang as well
    print(text_of(mount / ".status"), flush=True)
    for lockspace in mount.iterdir():
        print(f"{lockspace}/.locks:\n{text_of(lockspace / '.locks')}", flush=True)


if __name__ == "__main__":
    main()
