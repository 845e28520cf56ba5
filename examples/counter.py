#!/usr/bin/env python3
"""counter.py [TIMES]: draw a ticket, or several: no number is given out twice, on
all nodes. The last number is the value block of the lock file "tickets".

    $ examples/counter.py
    1
    $ examples/counter.py 2
    2
    3
    $ cat /dlm/web/.pr/tickets
    3

$LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
"""

import errno
import os
import sys

LOCKSPACE = os.environ.get("LOCKSPACE", "/dlm/web")


def draw():
    """Print the next number, while nobody else can: numbers appear in order."""
    with open(f"{LOCKSPACE}/.ex/tickets", "rb+", buffering=0) as lock:  # waits; the end of the block drops the lock
        ticket = int(lock.read(32) or 0) + 1
        lock.seek(0)
        lock.write(b"%d\n" % ticket)
        print(ticket, flush=True)


if __name__ == "__main__":
    try:
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
            draw()
    except OSError as error:
        if error.errno == errno.EIO:
            sys.exit(f"counter.py: the last number was lost with a node; write a new one to {LOCKSPACE}/.ex/tickets")
        sys.exit(f"counter.py: {error}")
