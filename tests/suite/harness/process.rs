//! Processes: waiting for them, finding them, and some that only hold something.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Waits till `done`; panics with `what` when that takes longer than anything here may take.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    let mut pause = Duration::from_millis(1);
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Where PATH has this program.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| {
            fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

/// All processes that can be seen.
pub fn pids() -> Vec<i32> {
    let Ok(proc) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    proc.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// What the descriptors of a process lead to.
pub fn descriptors(pid: i32) -> Vec<PathBuf> {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    fds.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .collect()
}

/// The processes that run `program` and have something below `root` open.
pub fn users_of(program: &Path, root: &Path) -> Vec<i32> {
    pids()
        .into_iter()
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
                && descriptors(*pid).iter().any(|path| path.starts_with(root))
        })
        .collect()
}

/// The children of this process, and theirs.
pub fn descendants() -> Vec<i32> {
    descendants_of(std::process::id().cast_signed())
}

/// The children of a process, and theirs.
pub fn descendants_of(pid: i32) -> Vec<i32> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything: the state, and the parent.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let all: Vec<(i32, Option<i32>)> = pids().into_iter().map(|p| (p, parent_of(p))).collect();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let children = all.iter().filter(|(_, parent)| *parent == Some(found[at]));
        let children: Vec<i32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        at += 1;
    }
    found.split_off(1)
}

/// SIGKILL, and wait till all of it is gone. (A process whose leader is a zombie may still have
/// threads, and with them its descriptors and locks; a pidfd tells when the last one has ended.)
#[track_caller]
pub fn kill_hard(pid: i32) {
    let target = Pid::from_raw(pid).expect("a positive PID");
    let handle = match pidfd_open(target, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return,
        Err(e) => panic!("pidfd_open {pid}: {e}"),
    };
    match kill_process(target, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(e) => panic!("cannot kill {pid}: {e}"),
    }
    let patience = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&patience));
    assert_eq!(ended, Ok(1), "{pid} ends");
}

/// A child that does nothing but hold what it was started with; killed when dropped.
pub struct Sleeper(Child);

impl Sleeper {
    /// Runs `program` with an argument that lets it sleep.
    #[track_caller]
    pub fn program(program: &Path) -> Sleeper {
        Sleeper::start(Command::new(program).arg("1000"))
    }

    /// With `dir` as its working directory.
    #[track_caller]
    pub fn working_in(dir: &Path) -> Sleeper {
        Sleeper::start(Command::new("sleep").arg("1000").current_dir(dir))
    }

    /// With `file` as its standard input.
    #[track_caller]
    pub fn reading(file: &Path) -> Sleeper {
        let file = fs::File::open(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Sleeper::start(Command::new("sleep").arg("1000").stdin(file))
    }

    #[track_caller]
    fn start(command: &mut Command) -> Sleeper {
        let child = command.stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        // spawn returns after the exec succeeded, so it already holds what it is to hold.
        Sleeper(child)
    }

    /// Its process ID.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a PID fits")
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Ends it.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may have died with the view; then there is nothing to kill, only to reap.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A small program of this machine that sleeps as long as its argument says, to put in images.
pub fn sleep_program() -> Vec<u8> {
    let file = on_path(OsStr::new("sleep").to_str().expect("ASCII")).expect("sleep on PATH");
    fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}
