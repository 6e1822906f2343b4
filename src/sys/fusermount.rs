//! Mounting FUSE with the set-user-ID helper `fusermount3`, for users who may not mount.
//!
//! The helper opens `/dev/fuse`, mounts, and sends the descriptor back over a socket, which it is
//! given as its standard input: so nothing has to be inherited by number.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

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
    let received = receive(&ours);
    // The helper ends when it has sent the descriptor, or failed.
    drop(ours);
    let output = helper.wait_with_output()?;
    match received? {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

/// The descriptor that comes over a socket; `None` if the other side closes it without.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    loop {
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        ) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}
