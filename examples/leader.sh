#!/bin/sh
# leader.sh NAME COMMAND...: wait to become the leader of the cluster, then run
# COMMAND again and again, for as long as we lead. Who leads can be read anywhere.
#
#     $ examples/leader.sh alice sleep 1 &
#     alice leads
#     $ cat /dlm/web/leader
#     alice
#     $ examples/leader.sh bob sleep 1 &
#     $ kill %1
#     bob leads
#     $ echo 1 >/dlm/web/.force; rmdir /dlm/web
#     bob has lost the lock
#
# $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
# A shell cannot poll: it looks before each round whether it still leads, so a
# round should be short. leader.py and leader.go are told, and end their command.
set -u

if [ $# -lt 2 ]; then
        echo "usage: leader.sh NAME COMMAND..." >&2
        exit 2
fi
name=$1
shift

exec 9>"${LOCKSPACE:-/dlm/web}/.ex/leader" || exit     # waits until the leader before us has gone

# fsync shows it to the others now. Without, they would see it when we have closed.
echo "$name" | dd conv=fsync status=none >&9 || exit
echo "$name leads"

# The command inherits the lock: even if this shell is killed, nobody else leads before the round has ended.
while dd conv=fsync status=none </dev/null >&9 2>/dev/null; do   # fails once the lock is lost: "Stale file handle"
        "$@" || exit
done
echo "$name has lost the lock" >&2
exit 1
