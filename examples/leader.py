#!/usr/bin/env python3
"""leader.py NAME COMMAND...: wait to become the leader of the cluster, then run
COMMAND, which is killed if the lock is lost. Who leads can be read anywhere.

    $ examples/leader.py alice sleep 100 &
    alice leads
    $ cat /dlm/web/leader
    alice
    $ examples/leader.py bob sleep 100 &
    $ kill %1
    bob leads
    $ echo 1 >/dlm/web/.force; rmdir /dlm/web
    bob has lost the lock

$LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
Exit status: that of COMMAND; 1 if the lock was lost.
"""

import os
import select
import signal
import subprocess
import sys

LOCKSPACE = os.environ.get("LOCKSPACE", "/dlm/web")


def run(command, lock):
    """The command's exit status, or None: the lock was lost. The command has ended in any case."""
    # It inherits the lock: even if this program is killed, nobody else leads before the command has ended.
    with subprocess.Popen(command, pass_fds=[lock.fileno()], process_group=0) as job:
        try:
            poll = select.poll()
            poll.register(lock, 0)              # POLLERR and POLLHUP are told always
            poll.register(os.pidfd_open(job.pid), select.POLLIN)
            if lock.fileno() not in dict(poll.poll()):
                return job.wait()
        finally:
            if job.returncode is None:
                os.killpg(job.pid, signal.SIGKILL)      # with all that it has started
    return None


def main(name, *command):
    with open(f"{LOCKSPACE}/.ex/leader", "rb+", buffering=0) as lock:   # waits until the leader before us has gone
        lock.truncate(0)
        lock.write(os.fsencode(f"{name}\n"))
        os.fsync(lock)                          # the others can read it now
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        print(f"{name} leads", flush=True)
        status = run(command, lock)
    if status is None:
        sys.exit(f"{name} has lost the lock")
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: leader.py NAME COMMAND...")
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"leader.py: {error}")
