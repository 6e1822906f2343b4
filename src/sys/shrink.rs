//! Cutting a file that is to be deleted down from its end, so that its blocks do not all go at once.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fstat, ftruncate, openat2, seek,
};
use rustix::io::{Errno, Result};

/// A file that may be cut: regular, with one name, and open nowhere else.
#[derive(Debug)]
pub struct Shrinking {
    file: OwnedFd,
    portion: NonZeroU64,
    /// The next lengths that it gets, and the allocated bytes that go with each, at most.
    cuts: VecDeque<Cut>,
    length: u64,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// The file's length after it.
    to: u64,
    /// What lies beyond that and is no hole.
    bytes: u64,
}

/// A range of a file that is no hole: from, to (exclusive).
type Range = (u64, u64);

/// How many ranges are kept at once: one page of a file may be one, and there may be any number.
const MOST_RANGES: usize = 1 << 16;

/// Lengths are cut to multiples of this, a multiple of the block sizes that there are: the kernel
/// would fill the rest of a block with zeros, and write it.
const GRAIN: u64 = 64 << 10;

impl Shrinking {
    /// Opens the file for cutting, if `found` (what the name was a moment ago) has more than a portion
    /// of allocated bytes. `None` where it has less, or must be left as it is: it may have other
    /// names, be open (who reads a file whose name is deleted reads on, who reads one that is cut does
    /// not), or something else may have its name.
    pub fn open(
        directory: BorrowedFd<'_>,
        name: &CStr,
        found: &Stat,
        portion: NonZeroU64,
    ) -> Option<Shrinking> {
        if !may_be_cut(found) || allocated(found) <= portion.get() {
            return None;
        }
        // Neither through a symlink nor into what is mounted there; never waiting for a FIFO's reader.
        let how =
            OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inside = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        // Forbidden or busy: the deletion will say so, or be possible all the same.
        let file = openat2(directory, name, how, Mode::empty(), inside).ok()?;
        let opened = fstat(&file).ok()?;
        let is_it = (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino);
        if !is_it || !may_be_cut(&opened) || !is_open_here_alone(&file) {
            return None;
        }
        Some(Shrinking {
            file,
            portion,
            cuts: VecDeque::new(),
            length: u64::try_from(opened.st_size).ok()?,
        })
    }

    /// How many bytes the next cut gives back, at most; `None` when what is left is to go with the
    /// name.
    pub fn next_cut(&mut self) -> Result<Option<u64>> {
        if self.cuts.is_empty() {
            let ranges = data(self.file.as_fd(), self.length)?;
            self.cuts = cuts(&ranges, self.portion.get());
        }
        Ok(self.cuts.front().map(|cut| cut.bytes))
    }

    /// Make the cut that [`Shrinking::next_cut`] has told.
    pub fn cut(&mut self) -> Result<()> {
        if let Some(cut) = self.cuts.pop_front() {
            ftruncate(&self.file, cut.to)?;
            self.length = cut.to;
        }
        Ok(())
    }

    /// The allocated bytes that it still has.
    pub fn left(&self) -> Result<u64> {
        fstat(&self.file).map(|now| allocated(&now))
    }
}

/// The allocated bytes of what this is about.
pub fn allocated(of: &Stat) -> u64 {
    u64::try_from(of.st_blocks).unwrap_or(0) * 512
}

fn may_be_cut(file: &Stat) -> bool {
    FileType::from_raw_mode(file.st_mode) == FileType::RegularFile && file.st_nlink == 1
}

/// Whether no other descriptor or mapping of the file exists, in whichever process, be it through an
/// overlay mount or as the backing file of a FUSE server: only then the kernel gives a lease to write
/// (fcntl(2)). Where it gives none (a file of another user, a file system without leases) the answer is
/// no.
fn is_open_here_alone(file: &OwnedFd) -> bool {
    const F_SETSIG: libc::c_int = 10; // linux/fcntl.h
    let fd = file.as_raw_fd();
    // Whoever opens the file before the lease is given back makes the kernel send a signal: one that
    // does nothing, instead of SIGIO, which kills.
    // SAFETY: no memory is passed, and the descriptor is borrowed for the calls.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}

/// The ranges of a file that are no holes, the last of them if there are too many. A file system that
/// does not know of holes says that it is one range.
fn data(file: BorrowedFd<'_>, length: u64) -> Result<VecDeque<Range>> {
    let mut ranges = VecDeque::new();
    let mut at = 0;
    while at < length {
        let from = match seek(file, SeekFrom::Data(at)) {
            Ok(from) => from,
            // There is only a hole from here on.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => 0,
            Err(e) => return Err(e),
        };
        let to = match seek(file, SeekFrom::Hole(from)) {
            Ok(to) => to,
            Err(Errno::NXIO | Errno::INVAL) => length,
            Err(e) => return Err(e),
        };
        if to <= from {
            break;
        }
        if ranges.len() == MOST_RANGES {
            ranges.pop_front();
        }
        ranges.push_back((from, to.min(length)));
        at = to;
    }
    Ok(ranges)
}

/// How to cut a file with these ranges, from its end, in steps of about a portion. The first portion is
/// left to go with the name: ext4 writes a file out that was cut to nothing (`auto_da_alloc`).
fn cuts(ranges: &VecDeque<Range>, portion: u64) -> VecDeque<Cut> {
    let mut cuts = VecDeque::new();
    let mut bytes = 0;
    for &(from, to) in ranges.iter().rev() {
        let mut end = to;
        while end > from {
            let wanted = portion.saturating_sub(bytes).max(1);
            let start = end.saturating_sub(wanted) / GRAIN * GRAIN;
            let start = start.max(from);
            bytes += end - start;
            end = start;
            if bytes >= portion {
                cuts.push_back(Cut { to: end, bytes });
                bytes = 0;
            }
        }
    }
    while cuts.back().is_some_and(|last| last.to == 0) {
        cuts.pop_back();
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{AtFlags, CWD, linkat, openat, statat, symlinkat};
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;

    const K: u64 = 1 << 10;

    fn lengths(ranges: &[Range], portion: u64) -> Vec<u64> {
        let cuts = cuts(&ranges.iter().copied().collect(), portion);
        cuts.iter().map(|cut| cut.to / K).collect()
    }

    #[test]
    fn a_file_is_cut_from_its_end_and_never_to_nothing() {
        let portion = 256 * K;
        for (ranges, expected) in [
            (vec![], vec![]),
            (vec![(0, 256 * K)], vec![]),
            (vec![(0, 512 * K)], vec![256]),
            (vec![(0, 1000 * K)], vec![704, 448, 192]),
            // A hole is no byte.
            (vec![(0, 128 * K), (1024 * K, 1152 * K)], vec![]),
            (
                vec![(0, 256 * K), (1024 * K, 1152 * K), (2048 * K, 2176 * K)],
                vec![1024],
            ),
            (vec![(512 * K, 768 * K)], vec![512]),
            // A range that does not begin at a multiple.
            (vec![(4 * K, 300 * K)], vec![4]),
        ] {
            assert_eq!(lengths(&ranges, portion), expected, "{ranges:?}");
        }
    }

    proptest! {
        #[test]
        fn no_cut_is_much_larger_than_a_portion(
            lengths in prop::collection::vec((0u64..100, 1u64..5000), 0..30),
            portion in 1u64..(4 << 20),
        ) {
            let mut at = 0;
            let mut ranges = VecDeque::new();
            for (hole, data) in lengths {
                at += (hole + 1) * 4 * K;
                ranges.push_back((at, at + data * 4 * K));
                at += data * 4 * K;
            }
            let data: u64 = ranges.iter().map(|(from, to)| to - from).sum();
            let cuts = cuts(&ranges, portion);
            let mut length = u64::MAX;
            for cut in &cuts {
                prop_assert!(cut.bytes > 0 && cut.bytes < portion + GRAIN);
                prop_assert!(cut.to < length && cut.to % (4 * K) == 0);
                length = cut.to;
            }
            let cut: u64 = cuts.iter().map(|cut| cut.bytes).sum();
            prop_assert!(cut <= data && data - cut < portion);
        }
    }

    /// A file with data at these places, in a directory opened.
    fn file_with(dir: &Path, name: &str, places: &[u64]) -> OwnedFd {
        let file = File::create(dir.join(name)).unwrap();
        for place in places {
            file.write_all_at(&vec![1; 1 << 20], *place).unwrap();
        }
        file.sync_all().unwrap();
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, dir, how, Mode::empty()).unwrap()
    }

    fn try_open(directory: &OwnedFd, name: &CStr) -> Option<Shrinking> {
        let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        Shrinking::open(
            directory.as_fd(),
            name,
            &found,
            NonZeroU64::new(256 * K).unwrap(),
        )
    }

    #[test]
    fn a_file_with_holes_is_cut_where_it_has_data() {
        let dir = tempfile::tempdir().unwrap();
        let directory = file_with(dir.path(), "f", &[0, 1 << 40, 1 << 42]);
        let mut file = try_open(&directory, c"f").unwrap();
        let before = file.left().unwrap();
        assert!(before >= 3 << 20);
        let mut steps = 0;
        while let Some(bytes) = file.next_cut().unwrap() {
            let left = file.left().unwrap();
            file.cut().unwrap();
            assert!(left - file.left().unwrap() <= bytes + 64 * K);
            steps += 1;
        }
        assert!((8..=12).contains(&steps), "{steps}");
        assert!(file.left().unwrap() <= 256 * K + 64 * K);
    }

    #[test]
    fn what_others_could_miss_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let directory = file_with(dir.path(), "f", &[0]);
        assert!(try_open(&directory, c"f").is_some());
        let reader = File::open(dir.path().join("f")).unwrap();
        assert!(try_open(&directory, c"f").is_none(), "it is read");
        drop(reader);
        linkat(&directory, c"f", &directory, c"g", AtFlags::empty()).unwrap();
        assert!(try_open(&directory, c"f").is_none(), "it has two names");
        std::fs::remove_file(dir.path().join("g")).unwrap();
        assert!(try_open(&directory, c"f").is_some());
        symlinkat(c"f", &directory, c"link").unwrap();
        let found = statat(&directory, c"f", AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let portion = NonZeroU64::new(K).unwrap();
        let through = Shrinking::open(directory.as_fd(), c"link", &found, portion);
        assert!(through.is_none(), "a symlink is not followed");
        file_with(dir.path(), "other", &[0]);
        let other = Shrinking::open(directory.as_fd(), c"other", &found, portion);
        assert!(other.is_none(), "the name is another file's");
    }
}
