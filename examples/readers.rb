#!/usr/bin/env ruby
# readers.rb get | set VALUE: read the value block of "config" under a shared lock,
# or write it under an exclusive one. Readers do not hold up each other.
#
#     $ examples/readers.rb set "rev 42"
#     $ exec 9</dlm/web/.pr/config
#     $ examples/readers.rb get
#     rev 42
#     $ examples/readers.rb set "rev 43" 9<&- &
#     readers.rb: waiting
#     $ exec 9<&-; wait
#     $ examples/readers.rb get
#     rev 43
#
# Descriptor 9 is another reader, who keeps the writer waiting, and whom he must not inherit.
# $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
LOCKSPACE = ENV.fetch("LOCKSPACE", "/dlm/web")

def locked(mode)
  File.open("#{LOCKSPACE}/config", File::RDWR | File::CREAT) do |file|
    unless file.flock(mode | File::LOCK_NB)
      warn "readers.rb: waiting"
      file.flock(mode)
    end
    yield file
  end
end

begin
  case ARGV
  in ["get"]
    locked(File::LOCK_SH) { |file| puts file.read }
  in ["set", value]
    locked(File::LOCK_EX) do |file|
      file.truncate(0)
      file.syswrite(value)
    end
  else
    abort "usage: readers.rb get | set VALUE"
  end
rescue Errno::EIO
  abort "readers.rb: the value was lost with a node: set a new one"
rescue SystemCallError => error
  abort "readers.rb: #{error.message}"
end
