//! The control groups of a container: who is in them, whether they are frozen, and their end
//! (cgroups(7)).
//!
//! One name has a directory in each hierarchy that is mounted: in one of version 2, in several of
//! version 1, or in both. Nothing here makes a group: the OCI runtime does.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mounts::mounts;
use super::processes::Process;

/// How long the kernel may take to let go of processes that it was told to kill.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directories of the group with this name, below the root of each hierarchy.
fn directories(name: &str) -> io::Result<Vec<PathBuf>> {
    let hierarchies = mounts()?
        .into_iter()
        .filter(|m| matches!(m.fs_type.as_str(), "cgroup" | "cgroup2"));
    let mut found: Vec<PathBuf> = hierarchies.map(|m| m.mountpoint.join(name)).collect();
    found.retain(|directory| directory.is_dir());
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether the processes of a group are frozen. False where there is no such group.
pub fn is_frozen(name: &str) -> io::Result<bool> {
    Ok(directories(name)?.iter().any(|directory| {
        let says = |file: &str, value: &str| {
            fs::read_to_string(directory.join(file)).is_ok_and(|text| text.trim() == value)
        };
        // FREEZING: it was told to.
        says("freezer.state", "FROZEN")
            || says("freezer.state", "FREEZING")
            || says("cgroup.freeze", "1")
    }))
}

/// Let the processes of a group go on, if they are frozen. Nothing there is well.
pub fn thaw(name: &str) -> io::Result<()> {
    directories(name)?.iter().try_for_each(|d| thaw_one(d))
}

fn thaw_one(directory: &Path) -> io::Result<()> {
    for (file, go_on) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let path = directory.join(file);
        // Not made where the hierarchy has none, or where the group has gone: these are no files.
        let written = match path.exists() {
            true => fs::write(&path, go_on),
            false => Ok(()),
        };
        match written {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {}
            // It has been removed since.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
            written => written?,
        }
    }
    Ok(())
}

/// Kill what is in a group, and remove it from every hierarchy. Nothing there is well.
///
/// # Errors
/// A hierarchy that may not be written to; `TimedOut` when the processes do not end.
pub fn remove(name: &str) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    for directory in directories(name)? {
        loop {
            match fs::remove_dir(&directory) {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::NotFound => break,
                // EBUSY: somebody is in it.
                Err(e) if e.raw_os_error() != Some(libc::EBUSY) => return Err(e),
                Err(_) if Instant::now() > end => return Err(ErrorKind::TimedOut.into()),
                Err(_) => {}
            }
            kill_all(&directory)?;
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

fn kill_all(directory: &Path) -> io::Result<()> {
    // A frozen process of version 1 does not die; of version 2 it does.
    thaw_one(directory)?;
    let members = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    for pid in members.lines().filter_map(|line| line.parse::<i32>().ok()) {
        // 0: of another PID namespace.
        if let Some(process) = (pid > 0).then(|| Process::open(pid)).flatten() {
            process.kill()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_frozen_and_removed() {
        let name = format!("layerctl-test-{}", std::process::id());
        assert!(!is_frozen(&name).unwrap());
        remove(&name).unwrap();
    }
}
