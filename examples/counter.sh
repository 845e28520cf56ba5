#!/bin/sh
# counter.sh [TIMES]: draw a ticket, or several: no number is given out twice, on
# all nodes. The last number is the value block of the lock file "tickets".
#
#     $ examples/counter.sh
#     1
#     $ examples/counter.sh 2
#     2
#     3
#     $ cat /dlm/web/tickets
#     3
#
# $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
# If the value was lost with a node, cat says "Input/output error": find out
# where to go on, and `echo 1000 >/dlm/web/.ex/tickets`.
set -u
tickets=${LOCKSPACE:-/dlm/web}/tickets

draw() (
        flock 9 || exit
        # Reading by name needs no lock, and ours keeps the writers out. Reading from descriptor 9 would move it on,
        # and the next number would be written behind the last.
        last=$(cat "$tickets") || exit
        echo $((last + 1)) >&9 || exit
        echo $((last + 1))
) 9>"$tickets"

for _ in $(seq "${1:-1}"); do
        draw || exit
done
