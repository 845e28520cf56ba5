// yield: hold a lock until somebody else wants it, let him go first, and take it
// back. What the lock protects can be kept in memory in the meantime.
//
//     $ rustc --out-dir build examples/yield.rs
//     $ build/yield &
//     holding
//     $ flock /dlm/web/cache echo "somebody else"
//     yielding
//     somebody else
//     holding
//     $ echo 1 >/dlm/web/.force; rmdir /dlm/web
//     yield: the lock is lost
//
// $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
// With the crates libc or rustix the declarations of the C library go away.
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::raw::{c_int, c_short, c_ulong};
use std::os::unix::io::AsRawFd;
use std::{env, process};

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

extern "C" {
    fn flock(fd: c_int, operation: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
}

const LOCK_EX: c_int = 2;
const LOCK_UN: c_int = 8;
const POLLPRI: c_short = 2;
const POLLERR: c_short = 8;
const POLLHUP: c_short = 16;

/// Call into the C library, again if a signal came in between.
fn retry(mut call: impl FnMut() -> c_int) -> io::Result<c_int> {
    loop {
        match call() {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            result => return Ok(result),
        }
    }
}

/// Wait until somebody wants the lock of this file; false: it is lost.
fn wait_until_asked(file: &File) -> io::Result<bool> {
    let mut fds = PollFd { fd: file.as_raw_fd(), events: POLLPRI, revents: 0 };
    retry(|| unsafe { poll(&mut fds, 1, -1) })?;
    Ok(fds.revents & (POLLERR | POLLHUP) == 0)
}

fn run() -> io::Result<()> {
    let lockspace = env::var("LOCKSPACE").unwrap_or_else(|_| "/dlm/web".into());
    let path = format!("{lockspace}/cache");
    let name_it = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let file = OpenOptions::new().append(true).create(true).open(&path).map_err(name_it)?;
    loop {
        retry(|| unsafe { flock(file.as_raw_fd(), LOCK_EX) })?; // behind all who wait already
        println!("holding");
        if !wait_until_asked(&file)? {
            return Err(io::Error::new(ErrorKind::Other, "the lock is lost"));
        }
        println!("yielding"); // here a program writes back what it has changed
        retry(|| unsafe { flock(file.as_raw_fd(), LOCK_UN) })?;
    }
}

fn main() {
    if let Err(error) = run() {
        eprintln!("yield: {error}");
        process::exit(1);
    }
}
