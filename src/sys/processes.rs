//! Which processes use a mounted file system, from `/proc` (proc(5)).
//!
//! No file of the file system itself is looked at: its server may be hanging. Descriptors name
//! their mount in `fdinfo`, mappings their device in `maps`, and the links `cwd`, `root` and `exe`
//! are asked with statx(2) for what the kernel knows already.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::mounts::Mount;

/// In which way a process uses a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Its program lies there.
    Program,
    /// Its root directory lies there.
    Root,
    /// Its working directory lies there.
    WorkingDirectory,
    /// It has a file open.
    OpenFile,
    /// It has a directory open.
    OpenDirectory,
    /// It has a file mapped.
    Mapping,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Use::Program => "running program",
            Use::Root => "root directory",
            Use::WorkingDirectory => "working directory",
            Use::OpenFile => "open file",
            Use::OpenDirectory => "open directory",
            Use::Mapping => "mapped file",
        })
    }
}

/// A process that uses a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process ID.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// In which ways, without repetition.
    pub uses: Vec<Use>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PID {} ({}): ", self.pid, self.name)?;
        for (i, how) in self.uses.iter().enumerate() {
            write!(f, "{}{how}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The processes that use the file system of this mount. This one, those that end meanwhile, and
/// those of other users that may not be looked at, are left out.
pub fn holders(mount: &Mount) -> io::Result<Vec<Holder>> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut holders = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        if pid == own {
            // It has inherited a descriptor from its caller, who is listed.
            continue;
        }
        let uses = uses_of(&entry.path(), mount);
        if !uses.is_empty() {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            holders.push(Holder {
                pid,
                name: name.trim_end().to_owned(),
                uses,
            });
        }
    }
    holders.sort_by_key(|h| h.pid);
    Ok(holders)
}

fn uses_of(process: &Path, mount: &Mount) -> Vec<Use> {
    let mut uses = Vec::new();
    for (link, how) in [
        ("exe", Use::Program),
        ("root", Use::Root),
        ("cwd", Use::WorkingDirectory),
    ] {
        if device_of(&process.join(link)) == Some(mount.device) {
            uses.push(how);
        }
    }
    for descriptor in list(&process.join("fd")) {
        // The device, not the mount: the file system may be bind-mounted elsewhere.
        if device_of(&descriptor) == Some(mount.device) {
            let is_directory = kind_of(&descriptor) == Some(true);
            uses.push(if is_directory {
                Use::OpenDirectory
            } else {
                Use::OpenFile
            });
        }
    }
    let device = format!("{:02x}:{:02x}", mount.device.0, mount.device.1);
    if let Ok(maps) = std::fs::read(process.join("maps"))
        && maps.split(|b| *b == b'\n').any(|line| {
            line.split(|b| *b == b' ')
                .nth(3)
                .is_some_and(|field| field == device.as_bytes())
        })
    {
        uses.push(Use::Mapping);
    }
    uses.sort_unstable();
    uses.dedup();
    // A program that runs is mapped as well: once is enough.
    if uses.contains(&Use::Program) {
        uses.retain(|u| *u != Use::Mapping);
    }
    uses
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|e| e.path()).collect()
}

/// The device of what a link in `/proc` leads to, without a request to the file system.
fn device_of(path: &Path) -> Option<(u32, u32)> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let stat = statx(rustix::fs::CWD, path, flags, StatxFlags::empty()).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor))
}

fn kind_of(path: &Path) -> Option<bool> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let stat = statx(rustix::fs::CWD, path, flags, StatxFlags::TYPE).ok()?;
    Some(u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR)
}

/// Whether a process is on its way out: gone, a zombie, or one whose threads have been sent SIGKILL
/// (which is pending on each of them until it has left the kernel).
pub fn is_dying(pid: i32) -> bool {
    let tasks = list(&PathBuf::from(format!("/proc/{pid}/task")));
    tasks.is_empty()
        || tasks.iter().any(|task| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            let field = |name| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::trim)
            };
            let killed = |mask: &str| {
                u64::from_str_radix(mask, 16)
                    .is_ok_and(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
            };
            field("State:").is_none_or(|state| state.starts_with(['Z', 'X']))
                || ["SigPnd:", "ShdPnd:"]
                    .into_iter()
                    .filter_map(field)
                    .any(killed)
        })
}

/// A handle on a process that stays valid however often its ID is used again.
#[derive(Debug)]
pub struct Process(rustix::fd::OwnedFd);

impl Process {
    /// The process that has this ID now, if there is one.
    pub fn open(pid: i32) -> Option<Process> {
        pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty())
            .ok()
            .map(Process)
    }

    /// Wait until it ends; false if it has not within `limit` (`None`: no limit).
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let limit = limit.map(|l| {
            Timespec::try_from(l).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], limit.as_ref()) {
                Ok(ended) => return Ok(ended > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mounts::mounts;

    #[test]
    fn a_running_program_is_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        // Between fork and exec the child still is this program.
        let sleeps = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n";
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !sleeps() {
            assert!(std::time::Instant::now() < end, "it begins to sleep");
            std::thread::yield_now();
        }
        let device = device_of(Path::new(&format!("/proc/{pid}/exe"))).unwrap();
        let mount = mounts()
            .unwrap()
            .into_iter()
            .find(|m| m.device == device)
            .unwrap();
        let all = holders(&mount).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            all.iter()
                .any(|h| h.pid == pid && h.uses.contains(&Use::Program))
        );
    }

    #[test]
    fn waiting_for_a_process() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::open(child.id().cast_signed()).unwrap();
        assert!(!process.wait(Some(Duration::from_millis(1))).unwrap());
        assert!(!is_dying(child.id().cast_signed()));
        child.kill().unwrap();
        assert!(is_dying(child.id().cast_signed()));
        assert!(process.wait(None).unwrap());
        assert!(is_dying(child.id().cast_signed()), "a zombie");
        child.wait().unwrap();
    }
}
