#!/usr/bin/env python3
"""yield.py: hold a lock until somebody else wants it, let him go first, and take
it back. What the lock protects can be kept in memory in the meantime.

    $ examples/yield.py &
    holding
    $ flock /dlm/web/cache echo "somebody else"
    yielding
    somebody else
    holding
    $ echo 1 >/dlm/web/.force; rmdir /dlm/web
    yield.py: the lock is lost

$LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
"""

import fcntl
import os
import select
import sys

LOCKSPACE = os.environ.get("LOCKSPACE", "/dlm/web")


def main():
    with open(f"{LOCKSPACE}/cache", "ab") as lock:
        poll = select.poll()
        poll.register(lock, select.POLLPRI)
        while True:
            fcntl.flock(lock, fcntl.LOCK_EX)    # behind all who wait already
            print("holding", flush=True)
            [(_, events)] = poll.poll()         # here a program waits for its work as well
            if events & (select.POLLERR | select.POLLHUP):
                sys.exit("yield.py: the lock is lost")
            print("yielding", flush=True)       # and here it writes back what it has changed
            fcntl.flock(lock, fcntl.LOCK_UN)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"yield.py: {error}")
