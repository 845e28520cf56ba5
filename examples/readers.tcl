#!/usr/bin/env tclsh
# readers.tcl get | set VALUE: read the value block of "config" under a shared lock,
# or write it under an exclusive one. Readers do not hold up each other.
#
#     $ examples/readers.tcl set "rev 42"
#     $ exec 9</dlm/web/.pr/config
#     $ examples/readers.tcl get
#     rev 42
#     $ examples/readers.tcl set "rev 43" 9<&- &
#     readers.tcl: waiting
#     $ exec 9<&-; wait
#     $ examples/readers.tcl get
#     rev 43
#
# Descriptor 9 is another reader, who keeps the writer waiting, and whom he must not inherit.
# $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
# Tcl has no flock: opening a file below .pr or .ex takes the lock, closing drops it.
set lockspace [expr {[info exists env(LOCKSPACE)] ? $env(LOCKSPACE) : "/dlm/web"}]

# Open a file that locks, and say so if that has to wait. A wait goes on after the program was stopped.
proc take {path flags} {
    try {
        return [open $path [list {*}$flags NONBLOCK]]
    } trap {POSIX EAGAIN} {} {
        puts stderr "readers.tcl: waiting"
    }
    while 1 {
        try {
            return [open $path $flags]
        } trap {POSIX EINTR} {} {}
    }
}

proc get {} {
    set lock [take $::lockspace/.pr/config RDONLY]
    try {
        puts [read -nonewline $lock]
    } finally {
        close $lock
    }
}

proc set_value {value} {
    set lock [take $::lockspace/.ex/config {WRONLY TRUNC}]
    try {
        puts -nonewline $lock $value
        flush $lock
    } finally {
        close $lock
    }
}

try {
    switch -- [lindex $argv 0],$argc {
        get,1 get
        set,2 {set_value [lindex $argv 1]}
        default {
            puts stderr "usage: readers.tcl get | set VALUE"
            exit 2
        }
    }
} trap {POSIX EIO} {} {
    puts stderr "readers.tcl: the value was lost with a node: set a new one"
    exit 1
} trap POSIX message {
    puts stderr "readers.tcl: $message"
    exit 1
}
