//! How much memory a load takes, however many entries a layer has. Needs: root.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use layerctl::archive::write::LayerBuilder;

use crate::archives_support::f;
use crate::harness::Store;
use crate::hostile_support::archive;

/// By how much more than for a small layer the peak of a load may be for one with [`MANY`] more
/// entries, in bytes: 100 an entry, less than their records in an index, which has 136 for each.
const MORE: u64 = 6_000_000;
const MANY: usize = 60_000;

/// The most memory that it ever had, in bytes, as far as it could be seen before it ended: what it
/// has at the end is seen, but for the last milliseconds. (What wait4(2) reports would begin with
/// the peak of the process that started it.)
fn peak(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        // A process that has ended has none.
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        peak = kib.map_or(peak, |kib| kib.parse::<u64>().unwrap() * 1024);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    peak
}

/// The peak of a load of an image of one layer with so many entries.
fn loaded(entries: usize) -> u64 {
    let mut tar = LayerBuilder::default();
    for nth in 0..entries {
        let name = format!("{:03}/{nth:06}", nth % 100);
        tar.file(name, &f(), b"").unwrap();
    }
    let store = Store::new();
    let file = store.beside("many.tar");
    fs::write(&file, archive("many:1", &[tar.finish().unwrap()])).unwrap();
    let mut load = store.command(&["load", "-q", "-i", file.to_str().unwrap()]);
    peak(load.stdout(Stdio::null()).spawn().unwrap())
}

/// Nothing of an entry stays in memory but what is being worked on.
pub fn entries_take_none() {
    let few = loaded(2_000);
    let many = loaded(2_000 + MANY);
    assert!(few > 1_000_000, "{few}");
    assert!(many < few + MORE, "{few} bytes, then {many}");
}
