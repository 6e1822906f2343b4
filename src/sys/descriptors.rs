//! How many files a process may have open, and those that go from one process to another: what a child
//! inherits, and what comes over a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Close every descriptor but standard input, output and error when a program is executed, the
/// ones that this process has inherited itself included: a view server must not keep its caller's
/// pipes open, or whoever reads them waits for it.
pub fn close_all_on_exec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_int = 4; // linux/close_range.h, Linux 5.11
    close_range(CLOSE_RANGE_CLOEXEC)
}

/// Do something in a thread that shares no descriptor with the others but standard input, output and
/// error. `work` must use none that was opened outside of it.
///
/// A FUSE server must ask its own file system only like this: the kernel does not let go of a thread
/// that waits for an answer, not even when it is killed, before the file system ends; which ends with the
/// last descriptor of /dev/fuse, that such a thread would have as well.
///
/// # Errors
/// Of the thread's making; not those of `work`.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    const CLOSE_RANGE_UNSHARE: libc::c_int = 2; // linux/close_range.h, Linux 5.9
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("apart".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            close_range(CLOSE_RANGE_UNSHARE)?;
            Ok(work())
        })?;
        let done = thread.join();
        done.unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
    })
}

fn close_range(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is passed. With CLOEXEC nothing is closed now; with UNSHARE the other threads keep
    // theirs, and this one has just begun and owns none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, libc::c_uint::MAX, flags) };
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

/// Raise the number of files that this process may have open to `wanted`, if it is less; beyond the most that
/// it may ask for where it is privileged.
///
/// # Errors
/// How many it may have, where that is less.
pub fn raise_limit_to(wanted: u64) -> Result<(), u64> {
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if enough(getrlimit(Resource::Nofile).current) {
        return Ok(());
    }
    let limit = match raise_limit() {
        Some(limit) if limit < wanted => limit,
        _ => return Ok(()),
    };
    let raised = Rlimit {
        current: Some(wanted),
        maximum: Some(wanted),
    };
    setrlimit(Resource::Nofile, raised).map_err(|_| limit)
}

/// The descriptors that come over a socket with one byte, `N` at most; none if the other side closes it
/// without.
pub fn receive<const N: usize>(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
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
    let mut received = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received.extend(descriptors);
        }
    }
    received.truncate(N);
    Ok(received)
}

/// The most descriptors that are sent at once.
const MOST: usize = 3;

/// Send descriptors over a socket, with one byte. No more than three at once.
pub fn send(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(
            socket,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn what_is_sent_is_received() {
        use std::io::{Read as _, Write as _};
        use std::os::fd::AsFd as _;
        let (one, other) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        send(&one, &[reader.as_fd(), writer.as_fd(), one.as_fd()]).unwrap();
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut received = receive::<2>(&other).unwrap();
        assert_eq!(received.len(), 2, "no more than are wanted");
        received.pop();
        let mut text = String::new();
        std::fs::File::from(received.remove(0))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "x");
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        drop(one);
        assert!(receive::<1>(&other).unwrap().is_empty());
    }

    #[test]
    fn what_a_thread_apart_has() {
        let file = tempfile::tempfile().unwrap();
        let number = file.as_raw_fd();
        let link = format!("/proc/thread-self/fd/{number}");
        assert!(std::fs::read_link(&link).is_ok());
        let seen = apart(|| std::fs::read_link(&link).is_ok()).unwrap();
        assert!(!seen, "it is closed there");
        assert!(file.metadata().is_ok(), "and open here");
    }
}
