#!/bin/sh
# job.sh NAME COMMAND...: run COMMAND, unless it runs already on this node or on
# another. For a cron table that is the same on all nodes.
#
#     $ examples/job.sh backup echo "backing up"
#     backing up
#     $ examples/job.sh backup examples/job.sh backup echo "not twice at a time"
#     job.sh: backup runs already
#
# $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
# Exit status: that of COMMAND; 75 if it runs already.
set -u

if [ $# -lt 2 ]; then
        echo "usage: job.sh NAME COMMAND..." >&2
        exit 2
fi
name=$1
shift

exec 9>"${LOCKSPACE:-/dlm/web}/$name" || exit   # takes no lock yet, and changes nothing
flock --nonblock --conflict-exit-code 75 9
status=$?
if [ $status = 75 ]; then
        echo "job.sh: $name runs already" >&2
fi
[ $status = 0 ] || exit $status

# The command inherits the lock, and keeps it even if this shell is killed. So does what it leaves in the background,
# unless that closes descriptor 9.
"$@"
