//! A case that hangs ends the run and is named, instead of keeping everybody waiting for nothing.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::store::{LAYERCTL, mounts_below, names_in};
use super::{cgroups, disk, process};

/// Watches one case from its beginning until this is dropped.
pub struct Watch {
    // Its end tells the watching thread that the case has ended.
    _case: Sender<()>,
}

/// Begins to watch; no case takes longer than five minutes, or `LAYERCTL_TEST_SECONDS`.
pub fn watch(case: &'static str) -> Watch {
    let given = std::env::var("LAYERCTL_TEST_SECONDS").ok();
    let seconds = given.map_or(300, |text| text.parse().expect("a number of seconds"));
    let (sender, ended) = channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("test {case} hangs: it has not ended in {seconds} seconds");
            end_all();
            std::process::abort();
        }
    });
    Watch { _case: sender }
}

/// Nothing that the cases started outlives them: children, servers, mounts. All without waiting,
/// and without caring what fails: whatever hangs may hang here, too.
fn end_all() {
    let servers = disk::places()
        .into_iter()
        .flat_map(|place| process::users_of(LAYERCTL.as_ref(), &place));
    for pid in process::descendants().into_iter().chain(servers) {
        if let Some(pid) = Pid::from_raw(pid) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
    for place in disk::places() {
        for store in names_in(&place) {
            let containers = place.join(store).join("root/containers");
            for container in names_in(&containers) {
                cgroups::end(&container);
            }
        }
    }
    for mount_point in disk::places().iter().flat_map(|place| mounts_below(place)) {
        unmount(&mount_point, UnmountFlags::DETACH).ok();
    }
}
