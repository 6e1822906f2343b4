//! The I/O priority of a thread (ioprio_set(2)).

use std::io;

/// While this lives, the thread that made it reads and writes only when nobody else does: the class
/// *idle*. After that its priority is what it was.
///
/// The kernel keeps to it where the disk's scheduler knows priorities (BFQ, mq-deadline). What a journal
/// writes on behalf of the thread has the journal's own priority.
#[derive(Debug)]
pub struct Idle {
    /// What the thread had; `None` if it has kept that.
    before: Option<libc::c_int>,
    /// The drop must run in the same thread.
    not_send: std::marker::PhantomData<*const ()>,
}

// linux/ioprio.h: three bits of class over thirteen of the level in it.
const CLASS_SHIFT: libc::c_int = 13;
const CLASS_IDLE: libc::c_int = 3;
const WHO_PROCESS: libc::c_int = 1;
const THIS_THREAD: libc::c_int = 0;

impl Idle {
    /// Lower the calling thread's. Where that is forbidden (a seccomp filter, say) it stays: nothing
    /// depends on it.
    pub fn of_this_thread() -> Idle {
        let before = get().and_then(|before| set(CLASS_IDLE << CLASS_SHIFT).map(|()| before));
        Idle {
            before: before
                .inspect_err(|e| tracing::debug!("no idle I/O priority: {e}"))
                .ok(),
            not_send: std::marker::PhantomData,
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(e) = set(before)
        {
            tracing::warn!("the I/O priority stays idle: {e}");
        }
    }
}

fn get() -> io::Result<libc::c_int> {
    // SAFETY: no memory is passed.
    let got = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, THIS_THREAD) };
    match libc::c_int::try_from(got) {
        Ok(priority) if priority >= 0 => Ok(priority),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(priority: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is passed, and it changes the calling thread alone.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, THIS_THREAD, priority) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_idle_as_long_as_it_is_said() {
        let before = get().unwrap();
        let idle = Idle::of_this_thread();
        assert_eq!(get().unwrap() >> CLASS_SHIFT, CLASS_IDLE);
        drop(idle);
        assert_eq!(get().unwrap(), before);
    }
}
