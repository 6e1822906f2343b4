//! Mounting FUSE with the set-user-ID helper `fusermount3`, for users who may not mount.
//!
//! The helper opens `/dev/fuse`, mounts, and sends the descriptor back over a socket, which it is
//! given as its standard input: so nothing has to be inherited by number.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::descriptors::receive;

/// Mounts at `mount_point` with the comma-separated `options`, and gives the descriptor of
/// `/dev/fuse`.
///
/// # Errors
/// `NotFound` if there is no helper; otherwise what the helper says.
pub fn mount(mount_point: &Path, options: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let helper = Command::new("fusermount3")
        .args(["-o", options, "--"])
        .arg(mount_point)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let received = receive::<1>(&ours);
    // The helper ends when it has sent the descriptor, or failed.
    drop(ours);
    let output = helper.wait_with_output()?;
    match received?.pop() {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}
