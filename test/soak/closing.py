#!/usr/bin/python3
"""When all clients have ended: nothing is held, nobody waits, the values are what the witness says, and all can go.

Says "wrong" and "end" as a client does.
"""

import argparse
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "cluster")]

from client import RESOURCES, Client, arguments
from lockspacefs_test import remove_lockspace, status, wait_until
from tricks import locks_left

SOON = 60


def check(client):
    wait_until(lambda: not locks_left(client.web), SOON, "no lock is left")
    seen = wait_until(lambda: (now := status(client.mount))["waiting"] == 0 and now, SOON, "nobody waits")
    if seen["held"]:
        client.tell.wrong("closing", what=f"{seen['held']} locks are held")
    for resource in RESOURCES:
        fd = os.open(client.web / ".pr" / resource, os.O_RDONLY)
        client.check(fd, resource)
        os.close(fd)


def is_gone(lockspace):
    """By force where other nodes' locks or a late answer stand in the way; busy: once more."""
    try:
        remove_lockspace(lockspace)
    except OSError:
        return False
    return not lockspace.exists()


def remove(client, engine):
    for lockspace in client.mount.glob("own-*"):
        wait_until(lambda: is_gone(lockspace), SOON, f"{lockspace} goes")
    if engine == "local":
        client.web.rmdir()                      # without force: nobody has a lock
    else:
        wait_until(lambda: is_gone(client.web), SOON, "web goes")
    if left := os.listdir(client.mount):
        client.tell.wrong("closing", what=f"left: {left}")


def main():
    parser = argparse.ArgumentParser()
    arguments(parser)
    parser.add_argument("--witness", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("what", choices=["check", "remove"])
    options = parser.parse_args()
    options.seed = ""
    client = Client(options)
    if options.what == "check":
        check(client)
    else:
        remove(client, options.engine)
    client.tell.say(end=time.time())


if __name__ == "__main__":
    main()
