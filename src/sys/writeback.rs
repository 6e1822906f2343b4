//! When dirty pages reach the disk.

use std::os::fd::{AsFd, AsRawFd};

/// Asks the kernel to begin writing `length` bytes at `offset` to the disk, without waiting: a sync that
/// follows has less to wait for. Nothing depends on it, so a file system that cannot is no error.
pub fn begin_writeback(file: impl AsFd, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    let file = file.as_fd().as_raw_fd();
    // SAFETY: no memory is passed, and the descriptor is borrowed for the call.
    let asked = unsafe { libc::sync_file_range(file, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if asked != 0 {
        tracing::debug!("no early writeback: {}", std::io::Error::last_os_error());
    }
}
