//! What a child process inherits.

use std::io;

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
