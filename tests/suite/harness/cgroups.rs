//! The cgroups of containers, as the kernel has them: each container's processes are found by them,
//! whoever their parents are.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::process::kill_hard;

/// The directories of a container's cgroups in every hierarchy.
pub fn directories(container: &str) -> Vec<PathBuf> {
    let prefix = format!("layerctl-{container}-");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let is_cgroup = |line: &&str| {
        line.split_once(" - ")
            .is_some_and(|(_, rest)| rest.starts_with("cgroup"))
    };
    let roots = table
        .lines()
        .filter(is_cgroup)
        .filter_map(|line| line.split(' ').nth(4));
    roots
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

/// The processes in a container's cgroups.
pub fn members(container: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = directories(container)
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Whether the kernel says that a container's processes are frozen.
pub fn are_frozen(container: &str) -> bool {
    directories(container).iter().any(|dir| {
        let says = |file: &str, value: &str| {
            fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim() == value)
        };
        says("freezer.state", "FROZEN") || says("cgroup.freeze", "1")
    })
}

/// Kills what is left of a container's processes and removes its cgroups; what cannot be done is left.
pub fn end(container: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    while !directories(container).is_empty() && Instant::now() < end {
        for dir in directories(container) {
            // A frozen process does not die of SIGKILL before it is let go.
            fs::write(dir.join("freezer.state"), "THAWED").ok();
            fs::remove_dir(dir).ok();
        }
        members(container)
            .into_iter()
            .filter(|pid| *pid > 0)
            .for_each(kill_hard);
    }
}
