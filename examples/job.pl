#!/usr/bin/perl
# job.pl NAME PERIOD COMMAND...: run COMMAND once in a PERIOD, which is any word,
# on one of the nodes. All start it; one does the work, the others wait for it and
# find it done. If his node crashes, or COMMAND fails, the next one does it.
#
#     $ examples/job.pl report monday echo "reporting"
#     reporting
#     $ examples/job.pl report monday echo "not twice"
#     report: done for monday
#     $ examples/job.pl report tuesday echo "reporting"
#     reporting
#
# In a cron table: job.pl report $(date +\%F) COMMAND...
# $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
use strict;
use warnings;
use Fcntl qw(O_RDWR O_CREAT LOCK_EX SEEK_SET);

my $lockspace = $ENV{LOCKSPACE} // '/dlm/web';
my ($name, $period, @command) = @ARGV;
die "usage: job.pl NAME PERIOD COMMAND...\n" unless @command;
die "job.pl: a period has up to 32 bytes\n" if length $period > 32;

$^F = 255;    # COMMAND inherits the lock, and keeps it even if we are killed
sysopen(my $lock, "$lockspace/$name", O_RDWR | O_CREAT) or die "job.pl: $lockspace/$name: $!\n";
until (flock($lock, LOCK_EX)) {
    die "job.pl: $lockspace/$name: $!\n" unless $!{EINTR};
}

# The value block has the last period that was done. If it is lost, the job is done once more.
my $done = '';
defined sysread($lock, $done, 32) or $!{EIO} or die "job.pl: $lockspace/$name: $!\n";
if ($done eq $period) {
    print "$name: done for $period\n";
    exit;
}

system(@command) == 0 or exit($? > 0 && $? >> 8 || 1);
sysseek($lock, 0, SEEK_SET) && truncate($lock, 0) && syswrite($lock, $period)
    or die "job.pl: $lockspace/$name: $!\n";
