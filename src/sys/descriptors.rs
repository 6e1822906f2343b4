//! How many files a process may have open, and which of them its children inherit.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Close every descriptor but standard input, output and error when a program is executed, the
/// ones that this process has inherited itself included: a view server must not keep its caller's
/// pipes open, or whoever reads them waits for it.
pub fn close_all_on_exec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_int = 4; // linux/close_range.h, Linux 5.11
    // SAFETY: no memory is passed, and no descriptor is closed now.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raise the number of files that this process may have open to the most that it may ask for. Gives
/// what it is then, `None` without a limit.
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(e) => {
            tracing::debug!("cannot raise the limit of open files: {e}");
            limit.current
        }
    }
}
