#!/bin/sh
# semaphore.sh N COMMAND...: run COMMAND when it is among the first N, on all
# nodes together. $SLOT tells it which of the N places it has.
#
#     $ examples/semaphore.sh 2 sh -c 'echo "slot $SLOT"'
#     slot 1
#     $ examples/semaphore.sh 2 examples/semaphore.sh 2 sh -c 'echo "slot $SLOT"'
#     slot 2
#
# $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
# All who share a semaphore say the same N: the locks are slot.1 to slot.N.
set -u
lockspace=${LOCKSPACE:-/dlm/web}

usage() {
        echo "usage: semaphore.sh N COMMAND..." >&2
        exit 2
}

[ $# -ge 2 ] && [ "$1" -ge 1 ] 2>/dev/null || usage
limit=$1
shift

take() {                                        # SLOT [OPTION]
        slot=$1
        exec 9>"$lockspace/slot.$slot" || exit
        flock ${2:+"$2"} --conflict-exit-code 75 9
        status=$?
        [ $status = 0 ] || [ $status = 75 ] || exit $status
        return $status
}

take_any() {
        for slot in $(seq "$limit"); do
                take "$slot" --nonblock && return
        done
        take $(($$ % limit + 1))                # all are taken: queue for one of them
}

take_any
export SLOT="$slot"
"$@"                                            # inherits the lock, and keeps it even if this shell is killed
