//! What is measured, and what it takes.
//!
//! A workload runs in a process of its own, which tells how long it took: a file system of which a request
//! never comes back can then be left behind. It is given the top of a tree, and in a directory beside it
//! what it reads from elsewhere; what it does with them is in [`work`](super::work).

use std::io;
use std::path::Path;

use super::work::{self, MIB};

/// What a workload works in.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The top of the tree.
    pub top: &'a Path,
    /// Not in the tree: [`TAR`], and the list of what is to be copied up.
    pub beside: &'a Path,
}

/// A tar of a part of the tree, in [`Scene::beside`].
pub const TAR: &str = "tree.tar";
/// A large file of the tree.
pub const BIG: &str = "data/big";
/// A directory of many files.
pub const WIDE: &str = "wide";

/// What of a tree a workload changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Nothing: it may run in a tree that others read as well.
    Nothing,
    /// What is there stays; it makes new files. It does not even take a tree.
    Adds,
    /// What is there.
    Layers,
}

/// One workload.
pub struct Workload {
    /// As users name it.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// It begins with nothing in memory.
    pub is_cold: bool,
    /// What it changes.
    pub changes: Changes,
    /// The paths that the tree must have; if it changes them, all that it needs.
    pub needs: &'static [&'static str],
    /// What comes before the clock starts.
    pub prepare: fn(&Scene<'_>) -> io::Result<()>,
    /// What is timed.
    pub run: fn(&Scene<'_>) -> io::Result<()>,
}

/// Of the large file so much is read.
const BIG_READ: u64 = 256 * MIB;

/// All of them, in the order in which they are run.
pub static WORKLOADS: [Workload; 15] = [
    Workload {
        name: "stat-walk-cold",
        what: "the attributes of every entry of the tree, nothing of it in memory",
        is_cold: true,
        changes: Changes::Nothing,
        needs: &[],
        prepare: nothing,
        run: |scene| work::stat_walk(scene.top),
    },
    Workload {
        name: "stat-walk-warm",
        what: "the same five times, after one walk",
        is_cold: false,
        changes: Changes::Nothing,
        needs: &[],
        prepare: |scene| work::stat_walk(scene.top),
        run: |scene| (0..5).try_for_each(|_| work::stat_walk(scene.top)),
    },
    Workload {
        name: "list-wide-dir",
        what: "a directory of many files listed five times by ls -f and ls -l",
        is_cold: false,
        changes: Changes::Nothing,
        needs: &[WIDE],
        prepare: |scene| work::list(&scene.top.join(WIDE), true),
        run: |scene| {
            let wide = scene.top.join(WIDE);
            (0..10).try_for_each(|n| work::list(&wide, n % 2 == 1))
        },
    },
    Workload {
        name: "open-read-all-cold",
        what: "every file of /usr and /etc opened and read, nothing of it in memory",
        is_cold: true,
        changes: Changes::Nothing,
        needs: &["usr", "etc"],
        prepare: nothing,
        run: read_usr_and_etc,
    },
    Workload {
        name: "open-read-all-warm",
        what: "the same twice, after having read all",
        is_cold: false,
        changes: Changes::Nothing,
        needs: &["usr", "etc"],
        prepare: read_usr_and_etc,
        run: |scene| (0..2).try_for_each(|_| read_usr_and_etc(scene)),
    },
    Workload {
        name: "seq-read-warm",
        what: "256 MiB of a file in memory, read twelve times by 1 MiB",
        is_cold: false,
        changes: Changes::Nothing,
        needs: &[BIG],
        prepare: read_big_once,
        run: |scene| work::read_in_order(&scene.top.join(BIG), BIG_READ, 12),
    },
    Workload {
        name: "rand-read-4k",
        what: "300,000 times 4 KiB of a file in memory, anywhere",
        is_cold: false,
        changes: Changes::Nothing,
        needs: &[BIG],
        prepare: read_big_once,
        run: |scene| work::read_anywhere(&scene.top.join(BIG), BIG_READ, 300_000),
    },
    Workload {
        name: "mmap-read",
        what: "150,000 times 4 KiB of the same through a mapping, in each of four mappings",
        is_cold: false,
        changes: Changes::Nothing,
        needs: &[BIG],
        prepare: read_big_once,
        run: |scene| {
            let big = scene.top.join(BIG);
            (0..4).try_for_each(|_| work::read_mapped(&big, BIG_READ, 150_000))
        },
    },
    Workload {
        name: "create-5k",
        what: "5,000 files of 4 KiB made in each of three directories",
        is_cold: false,
        changes: Changes::Adds,
        needs: &[],
        prepare: |scene| work::make_directories(scene.top, 3),
        run: |scene| work::create_files(scene.top, 3, 5000),
    },
    Workload {
        name: "untar",
        what: "tar unpacks a part of /usr and /etc",
        is_cold: false,
        changes: Changes::Adds,
        needs: &["usr", "etc"],
        prepare: |scene| work::read_in_order(&scene.beside.join(TAR), u64::MAX, 1),
        run: |scene| work::untar(&scene.beside.join(TAR), &scene.top.join("untar")),
    },
    Workload {
        name: "seq-write",
        what: "384 MiB of a new file, written four times by 1 MiB",
        is_cold: false,
        changes: Changes::Adds,
        needs: &[],
        prepare: nothing,
        run: |scene| work::write_in_order(&scene.top.join("out"), 384 * MIB, 4),
    },
    Workload {
        name: "write-4k",
        what: "100,000 times 4 KiB of a new file of 128 MiB, anywhere",
        is_cold: false,
        changes: Changes::Adds,
        needs: &[],
        prepare: nothing,
        run: |scene| work::write_anywhere(&scene.top.join("out"), 128 * MIB, 100_000),
    },
    Workload {
        name: "copy-up-1500",
        what: "a byte added to each of 1,500 files of /usr",
        is_cold: false,
        changes: Changes::Layers,
        needs: &["usr"],
        prepare: |scene| work::list_files(scene, "usr", 1500),
        run: work::append_to_each,
    },
    Workload {
        name: "copy-up-big",
        what: "a byte changed in a large file",
        is_cold: false,
        changes: Changes::Layers,
        needs: &[BIG],
        prepare: read_big,
        run: |scene| work::change_a_byte(&scene.top.join(BIG)),
    },
    Workload {
        name: "rm-lower-tree",
        what: "/usr/share and a directory of many files removed",
        is_cold: false,
        changes: Changes::Layers,
        needs: &["usr/share", WIDE],
        prepare: |scene| work::stat_walk(scene.top),
        run: |scene| {
            std::fs::remove_dir_all(scene.top.join("usr/share"))?;
            std::fs::remove_dir_all(scene.top.join(WIDE))
        },
    },
];

/// The one of this name.
pub fn workload(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

fn nothing(_: &Scene<'_>) -> io::Result<()> {
    Ok(())
}

fn read_usr_and_etc(scene: &Scene<'_>) -> io::Result<()> {
    work::read_all(&scene.top.join("usr"))?;
    work::read_all(&scene.top.join("etc"))
}

fn read_big_once(scene: &Scene<'_>) -> io::Result<()> {
    work::read_in_order(&scene.top.join(BIG), BIG_READ, 1)
}

fn read_big(scene: &Scene<'_>) -> io::Result<()> {
    work::read_in_order(&scene.top.join(BIG), u64::MAX, 1)
}
