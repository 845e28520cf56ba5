#!/usr/bin/env python3
"""semaphore.py N COMMAND...: run COMMAND when it is among the first N, on all
nodes together. $SLOT tells it which of the N places it has.

    $ examples/semaphore.py 2 sh -c 'echo "slot $SLOT"'
    slot 1
    $ examples/semaphore.py 2 examples/semaphore.py 2 sh -c 'echo "slot $SLOT"'
    slot 2

$LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
All who share a semaphore say the same N: the locks are slot.1 to slot.N.
"""

import os
import random
import sys

LOCKSPACE = os.environ.get("LOCKSPACE", "/dlm/web")


def take(slot, flags=0):
    """The lock of this slot, a descriptor; with O_NONBLOCK a BlockingIOError if somebody has it."""
    return os.open(f"{LOCKSPACE}/.ex/slot.{slot}", os.O_RDWR | flags)


def take_any(limit):
    """One of @limit slots, and its lock. The first that is free, or else the first in a queue chosen by chance."""
    for slot in range(1, limit + 1):
        try:
            return slot, take(slot, os.O_NONBLOCK)
        except BlockingIOError:
            pass
    slot = random.randint(1, limit)
    return slot, take(slot)


def main(limit, *command):
    slot, lock = take_any(int(limit))
    os.environ["SLOT"] = str(slot)
    os.set_inheritable(lock, True)              # the command has the lock from here on
    os.execvp(command[0], command)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 1:
        sys.exit("usage: semaphore.py N COMMAND...")
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"semaphore.py: {error}")
