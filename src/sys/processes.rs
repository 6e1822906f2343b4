//! Which processes use a mounted file system, from `/proc` (proc(5)).
//!
//! No file of the file system itself is looked at: its server may be hanging. Descriptors name
//! their mount in `fdinfo`, mappings their device in `maps`, and the links `cwd`, `root` and `exe`
//! are asked with statx(2) for what the kernel knows already.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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
    /// What of it, in the order of the ways and of the paths, each once.
    pub files: Vec<HeldFile>,
    /// How long ago the process was started, if that can be seen. When a file was opened or mapped the
    /// kernel does not record.
    pub age: Option<Duration>,
}

/// A file or directory that a process uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldFile {
    /// In which way.
    pub how: Use,
    /// Its path from the root of the file system as far as the kernel tells: the mount point is taken
    /// off, if it is to be seen there.
    pub path: PathBuf,
    /// It has no name there any more.
    pub deleted: bool,
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

/// The processes that use the file system of this device, as major and minor number; `mountpoint` is where
/// it is to be seen, if it is, and is taken off the paths of files. This process, those that end meanwhile,
/// and those of other users that may not be looked at, are left out.
pub fn holders(device: (u32, u32), mountpoint: Option<&Path>) -> io::Result<Vec<Holder>> {
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
        let files = files_of(&entry.path(), device, mountpoint);
        if !files.is_empty() {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            holders.push(Holder {
                pid,
                name: name.trim_end().to_owned(),
                uses: uses_of(&files),
                files,
                age: age_of(pid),
            });
        }
    }
    holders.sort_by_key(|h| h.pid);
    Ok(holders)
}

fn files_of(process: &Path, device: (u32, u32), mountpoint: Option<&Path>) -> Vec<HeldFile> {
    let mut files = Vec::new();
    let mut held = |link: &Path, how: fn(&Path) -> Use| {
        // The device, not the mount: the file system may be bind-mounted elsewhere.
        if device_of(link) == Some(device)
            && let Ok(path) = std::fs::read_link(link)
        {
            files.push(held_file(
                how(link),
                path.as_os_str().as_bytes(),
                mountpoint,
            ));
        }
    };
    held(&process.join("exe"), |_| Use::Program);
    held(&process.join("root"), |_| Use::Root);
    held(&process.join("cwd"), |_| Use::WorkingDirectory);
    for descriptor in list(&process.join("fd")) {
        held(&descriptor, |link| match kind_of(link) {
            Some(true) => Use::OpenDirectory,
            _ => Use::OpenFile,
        });
    }
    let maps = std::fs::read(process.join("maps")).unwrap_or_default();
    let mapped = maps
        .split(|b| *b == b'\n')
        .filter_map(|line| mapped_file(line, device));
    files.extend(mapped.map(|path| held_file(Use::Mapping, &path, mountpoint)));
    files.sort_unstable();
    files.dedup();
    files
}

/// The path of a line of `/proc/PID/maps`, if it is of this device: `address mode offset device inode
/// path`, where a newline in the path is `\012`.
fn mapped_file(line: &[u8], device: (u32, u32)) -> Option<Vec<u8>> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    if fields.nth(3)? != format!("{:02x}:{:02x}", device.0, device.1).as_bytes() {
        return None;
    }
    let path = fields.nth(1)?.trim_ascii_start();
    let mut found = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let is_newline = path[at..].starts_with(b"\\012");
        found.push(if is_newline { b'\n' } else { *byte });
        at += if is_newline { 4 } else { 1 };
    }
    Some(found)
}

/// From what a link in `/proc` says, or a mapping.
fn held_file(how: Use, path: &[u8], mountpoint: Option<&Path>) -> HeldFile {
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    let path = Path::new(OsStr::from_bytes(path));
    HeldFile {
        how,
        path: match mountpoint.map(|mountpoint| path.strip_prefix(mountpoint)) {
            Some(Ok(inside)) => Path::new("/").join(inside),
            // Of another mount namespace, or of a mount that was detached.
            Some(Err(_)) | None => path.to_owned(),
        },
        deleted,
    }
}

fn uses_of(files: &[HeldFile]) -> Vec<Use> {
    let mut uses: Vec<Use> = files.iter().map(|file| file.how).collect();
    uses.dedup();
    // A program that runs is mapped as well: once is enough.
    if uses.contains(&Use::Program) {
        uses.retain(|u| *u != Use::Mapping);
    }
    uses
}

/// How long ago a process was started: its start is the twentieth field after the name in
/// `/proc/PID/stat`, in clock ticks since the machine was (proc(5)).
fn age_of(pid: i32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    let started = Duration::from_millis(ticks * 1000 / clock_ticks_per_second());
    Some(
        Duration::try_from_secs_f64(uptime)
            .ok()?
            .saturating_sub(started),
    )
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

/// How many files a process may have open: its soft and its hard limit (`/proc/PID/limits`, proc(5)).
pub fn open_files_of(pid: i32) -> Option<(u64, u64)> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|number| match number {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some((numbers.next()??, numbers.next()??))
}

/// The program that a process runs, to see when it runs another.
#[derive(Debug)]
pub struct Program {
    link: PathBuf,
    /// `None` if the process cannot be seen.
    file: Option<((u32, u32), u64)>,
}

impl Program {
    /// That of a process now.
    pub fn of(pid: i32) -> Program {
        let link = Path::new("/proc").join(pid.to_string()).join("exe");
        Program {
            file: file_of(&link),
            link,
        }
    }

    /// Wait until it runs another or has ended, or `limit` is over.
    pub fn wait_for_another(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.file.is_some() && file_of(&self.link) == self.file && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Device and inode number of what a link in `/proc`, or another path, leads to.
fn file_of(path: &Path) -> Option<((u32, u32), u64)> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let stat = statx(rustix::fs::CWD, path, flags, StatxFlags::INO).ok()?;
    Some(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

fn kind_of(path: &Path) -> Option<bool> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let stat = statx(rustix::fs::CWD, path, flags, StatxFlags::TYPE).ok()?;
    Some(u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR)
}

/// How much of a process there still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It runs, or sleeps.
    Alive,
    /// It was sent SIGKILL, or some of its threads have ended: what it holds it will soon let go.
    Dying,
    /// It holds nothing any more: not there, in another PID namespace, or a zombie.
    Over,
}

/// What can be seen of the life of the process that has this ID now.
pub fn life_of(pid: i32) -> Life {
    let tasks = list(&PathBuf::from(format!("/proc/{pid}/task")));
    let lives: Vec<Life> = tasks
        .iter()
        .filter_map(|task| life_of_thread(task))
        .collect();
    match lives.as_slice() {
        // A thread is a zombie only after it has let go of the descriptors; the last one closes them.
        all if all.iter().all(|life| *life == Life::Over) => Life::Over,
        all if all.iter().all(|life| *life == Life::Alive) => Life::Alive,
        _ => Life::Dying,
    }
}

/// `None` if it has gone meanwhile. SIGKILL is pending on a thread until it leaves the kernel.
fn life_of_thread(task: &Path) -> Option<Life> {
    let status = std::fs::read_to_string(task.join("status")).ok()?;
    let field = |name| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let killed = |mask: &str| {
        u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
    };
    let mut pending = ["SigPnd:", "ShdPnd:"].into_iter().filter_map(field);
    Some(match field("State:")? {
        state if state.starts_with(['Z', 'X']) => Life::Over,
        _ if pending.any(killed) => Life::Dying,
        _ => Life::Alive,
    })
}

/// Whether the parent of a process runs the same program as this one. (The parent's ID is the second
/// field after the name in `/proc/PID/stat`, proc(5).)
pub fn is_ours(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
    let parent = fields.and_then(|fields| fields.split(' ').nth(1));
    let own = file_of(Path::new("/proc/self/exe"));
    parent.is_some_and(|parent| {
        own.is_some() && file_of(&Path::new("/proc").join(parent).join("exe")) == own
    })
}

/// The processes of whose ID and command line `is_wanted` says so. Those of other PID namespaces are not
/// seen.
pub fn with_command_line(is_wanted: impl Fn(i32, &[&OsStr]) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str);
        let Some(pid) = name.and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // First the handle, then the look: the ID may be used again in between.
        let Some(process) = Process::open(pid) else {
            continue;
        };
        // One that is being taken apart has a command line for as long as any of its threads has.
        let threads = || list(&path.join("task"));
        let mut lines = std::iter::once(path.clone())
            .chain(std::iter::once_with(threads).flatten())
            .filter_map(|place| std::fs::read(place.join("cmdline")).ok());
        let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
        let args: Vec<&OsStr> = line.split(|b| *b == 0).map(OsStr::from_bytes).collect();
        if is_wanted(pid, &args) {
            found.push(process);
        }
    }
    Ok(found)
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

    /// Whether it has this directory open; false too where that may not be looked at.
    pub fn has_open(&self, directory: &Path) -> bool {
        let Some((before, wanted)) = self.id_in_proc().zip(file_of(directory)) else {
            return false;
        };
        let mut descriptors = list(&PathBuf::from(format!("/proc/{before}/fd"))).into_iter();
        descriptors.any(|fd| file_of(&fd) == Some(wanted))
            // Looked at again: had it ended meanwhile, that ID may have been another's.
            && self.id_in_proc() == Some(before)
    }

    /// The ID under which `/proc` shows it: that may be another PID namespace's than ours, and show
    /// nothing of it.
    fn id_in_proc(&self) -> Option<i32> {
        let info = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = std::fs::read_to_string(info).ok()?;
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        // 0: not in that namespace; -1: it has ended.
        pid.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// Ask it to end; false if it has ended already.
    ///
    /// # Errors
    /// EPERM for another user's.
    pub fn terminate(&self) -> io::Result<bool> {
        self.signal(Signal::TERM)
    }

    /// End it by SIGKILL; false if it has ended already.
    ///
    /// # Errors
    /// EPERM for another user's.
    pub fn kill(&self) -> io::Result<bool> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Wait until it ends; false if the other side of a socket has gone before.
    pub fn wait_unless_gone(&self, socket: &UnixStream) -> io::Result<bool> {
        loop {
            // Of the socket nothing is asked for: that the other side is gone is told always.
            let mut polled = [
                PollFd::new(&self.0, PollFlags::IN),
                PollFd::new(socket, PollFlags::empty()),
            ];
            match poll(&mut polled, None) {
                Ok(_) if !polled[0].revents().is_empty() => return Ok(true),
                Ok(_) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
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

    #[test]
    fn paths_of_mappings() {
        let line =
            b"7f00-7f10 r--s 00000000 00:2a 12                         /v/a  b\\012c (deleted)";
        let path = mapped_file(line, (0, 0x2a)).unwrap();
        assert_eq!(path, b"/v/a  b\nc (deleted)");
        assert_eq!(mapped_file(line, (0, 0x2b)), None);
        assert_eq!(mapped_file(b"", (0, 0x2a)), None);
        let mountpoint = Some(Path::new("/v"));
        let file = held_file(Use::Mapping, &path, mountpoint);
        assert_eq!((&*file.path, file.deleted), (Path::new("/a  b\nc"), true));
        let outside = held_file(Use::OpenFile, b"/vw", mountpoint);
        assert_eq!((&*outside.path, outside.deleted), (Path::new("/vw"), false));
    }

    #[test]
    fn the_age_of_a_process() {
        let own = std::process::id().cast_signed();
        assert!(age_of(own).unwrap() < age_of(1).unwrap());
        assert_eq!(age_of(-1), None);
    }

    #[test]
    fn limits() {
        let (soft, hard) = open_files_of(std::process::id().cast_signed()).unwrap();
        assert!(soft > 0 && soft <= hard);
        assert_eq!(open_files_of(-1), None);
    }

    #[test]
    fn command_lines() {
        let mut child = std::process::Command::new("sleep")
            .args(["60", "0.25"])
            .spawn()
            .unwrap();
        let find = |last: &str| {
            with_command_line(|pid, args| is_ours(pid) && args.contains(&OsStr::new(last))).unwrap()
        };
        assert!(find("0.26").is_empty());
        // For a moment after its start it has no command line of its own.
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() {
            assert!(std::time::Instant::now() < end, "it is found");
            for process in find("0.25") {
                process.kill().unwrap();
                assert!(process.wait(None).unwrap());
            }
        }
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
    }

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
        let all = holders(device, None).unwrap();
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
        let life = |child: &std::process::Child| life_of(child.id().cast_signed());
        assert_eq!(life(&child), Life::Alive);
        assert!(process.terminate().unwrap());
        assert!(process.wait(None).unwrap());
        assert_eq!(life(&child), Life::Over, "a zombie");
        child.wait().unwrap();
        assert_eq!(life(&child), Life::Over);
        assert!(
            !process.terminate().unwrap(),
            "it has ended, and that is no error"
        );
    }

    #[test]
    fn who_has_a_directory_open() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::fs::File::open(one.path()).unwrap())
            .spawn()
            .unwrap();
        let process = Process::open(child.id().cast_signed()).unwrap();
        assert!(process.has_open(one.path()));
        assert!(!process.has_open(other.path()));
        assert!(!process.has_open(&other.path().join("missing")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.has_open(one.path()));
    }
}
