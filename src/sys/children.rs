//! Processes that this one starts, or is handed when their parent ends.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, waitid, waitpid,
};

/// From now on this process is the parent of its descendants whose own parents end, in place of the
/// system's first process: so it learns how they end (`PR_SET_CHILD_SUBREAPER`, prctl(2)).
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Lets the kernel kill what `command` starts when the thread that starts it ends, by SIGKILL too.
pub fn dies_with_us(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            match rustix::process::getppid() {
                Some(now) if now.as_raw_nonzero().get().cast_unsigned() == parent => Ok(()),
                // It ended before this was said.
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
}

/// As [`dies_with_us`], for the first process of a PID namespace: it does not see its parent, and cannot
/// look whether that has ended meanwhile.
pub fn dies_with_us_unseen(command: &mut Command) {
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// Gives what `command` starts a session of its own: no terminal, and no signal from one, from before it
/// runs its program.
pub fn leads_a_session(command: &mut Command) {
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
    }
}

/// Waits until a child has ended, and leaves it to be waited for: its ID stays its own.
pub fn wait_for_end(pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits until a child ends. Gives its exit code, or 128 and the number of the signal that ended it,
/// as shells count.
pub fn wait(pid: i32) -> io::Result<i32> {
    wait_and_measure(pid).map(|(code, _)| code)
}

/// Waits until any child ends, and gives its ID and its exit code, as [`wait`] does; `None` without
/// children.
pub fn wait_for_any() -> io::Result<Option<(i32, i32)>> {
    loop {
        match waitpid(None, WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let signalled = || status.terminating_signal().map(|signal| 128 + signal);
                if let Some(code) = status.exit_status().or_else(signalled) {
                    return Ok(Some((pid.as_raw_pid(), code)));
                }
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits until a child ends. Gives its exit code, as [`wait`] does, and the largest resident set that it
/// or a descendant that was waited for has had, in bytes (wait4(2), `ru_maxrss` of getrusage(2)).
pub fn wait_and_measure(pid: i32) -> io::Result<(i32, u64)> {
    // Of another number than a process's, wait4 would wait for others.
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let mut status = 0;
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to values that live until this returns.
        match unsafe { libc::wait4(pid.as_raw_pid(), &raw mut status, 0, &raw mut usage) } {
            -1 => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
            _ if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) => break,
            _ => {}
        }
    }
    let code = match libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => 128 + libc::WTERMSIG(status),
    };
    Ok((code, u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024))
}

/// Sends a signal to a process group. One that has no process left gets none, which is no error.
pub fn signal_group(group: i32, number: i32) -> io::Result<()> {
    let group = Pid::from_raw(group).ok_or(io::ErrorKind::InvalidInput)?;
    let signal = Signal::from_named_raw(number).ok_or(io::ErrorKind::InvalidInput)?;
    match rustix::process::kill_process_group(group, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Kills all that a process has started, and what that has started, the latest first; not the process
/// itself. Gives their IDs. (`/proc/PID/task/TID/children`, proc(5).)
pub fn kill_descendants_of(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        at += 1;
    }
    found.remove(0);
    found.reverse();
    for pid in &found {
        signal(*pid, libc::SIGKILL)?;
    }
    Ok(found)
}

/// Sends a signal to a child that has not been waited for, whose ID is therefore still its own. One
/// that has ended gets none, which is no error.
pub fn signal(pid: i32, number: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let signal = match Signal::from_named_raw(number) {
        Some(signal) => signal,
        // SAFETY: of the numbers without a name the C library's own are not let in by those who read
        // them from users (`model::signal`); the kernel refuses what is no signal.
        None => unsafe { Signal::from_raw_unchecked(number) },
    };
    match kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> i32 {
        let mut command = Command::new("sh");
        dies_with_us(command.args(["-c", script]));
        command.spawn().unwrap().id().cast_signed()
    }

    #[test]
    fn descendants_are_killed() {
        // Other tests have children, too: so in a process of its own.
        let script = "sh -c 'sleep 60 & wait' & wait";
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).spawn().unwrap();
        let of = |pid: u32| {
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default()
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let grandchild = loop {
            assert!(std::time::Instant::now() < end, "it has started another");
            let first = of(child.id()).trim().parse();
            match first.map(|first| of(first).trim().parse::<i32>()) {
                Ok(Ok(second)) => break second,
                _ => std::thread::yield_now(),
            }
        };
        kill_descendants_of(child.id().cast_signed()).unwrap();
        assert!(child.wait().is_ok());
        let is_there =
            || crate::sys::processes::life_of(grandchild) == crate::sys::processes::Life::Alive;
        while is_there() {
            assert!(
                std::time::Instant::now() < end,
                "its child's child has ended"
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn how_children_end() {
        assert_eq!(wait(shell("exit 7")).unwrap(), 7);
        assert_eq!(wait(shell("kill -TERM $$; sleep 60")).unwrap(), 128 + 15);
        let sleeper = shell("exec sleep 60");
        signal(sleeper, 40).unwrap();
        wait_for_end(sleeper).unwrap();
        assert_eq!(wait(sleeper).unwrap(), 128 + 40);
        assert!(wait(sleeper).is_err());
    }
}
