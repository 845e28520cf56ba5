#!/usr/bin/python3
"""Where the processes of some groups hang, and what the mount and the kernel's DLM say of locks: look.py MOUNT GROUP..."""

import os
import sys
from pathlib import Path

DLM = Path("/sys/kernel/debug/dlm")             # where there is one


def text_of(path):
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        return error.strerror


def look_at(process):
    for thread in (process / "task").iterdir():
        print(f"process {process.name}, thread {thread.name}: {text_of(thread / 'comm')}, system call {text_of(thread / 'syscall')}")
        print(text_of(thread / "stack"))
    for fd in (process / "fd").iterdir():
        print(f"  {fd.name} -> {os.readlink(fd)}")


def main():
    mount, groups = Path(sys.argv[1]), set(map(int, sys.argv[2:]))
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) in groups:
                look_at(process)
        except OSError as error:                # it has ended
            print(f"process {process.name}: {error}")
    for table in (*DLM.glob("*_locks"), *DLM.glob("*_waiters")):
        print(f"{table}:\n{text_of(table)}")
    sys.stdout.flush()                          # the mount may hang as well
    print(text_of(mount / ".status"), flush=True)
    for lockspace in mount.iterdir():
        print(f"{lockspace}/.locks:\n{text_of(lockspace / '.locks')}", flush=True)


if __name__ == "__main__":
    main()
