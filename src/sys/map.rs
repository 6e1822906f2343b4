//! A file's contents in memory, mapped read-only: shared with whoever else maps it, and paged in as
//! they are read.
//!
//! What is mapped may be gone when it is read: somebody cuts the file short, or the disk fails. The
//! kernel tells by SIGBUS, which would end the process. For the files mapped here it does not: the
//! whole mapping becomes zeros then, in one step; and of a page that is cut short the kernel makes
//! the rest zeros. Either can be seen by what a file must have at its end, after reading.

use std::fs::File;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::{Errno, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A file mapped whole, or zeros since a part of it could not be read any more.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    length: usize,
    /// Where the signal handler finds it; `None` where too many are mapped.
    slot: Option<&'static Slot>,
}

// SAFETY: the memory is only read, and nobody but `drop` unmaps it.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Map an open file as long as it is now, and read all of it.
    ///
    /// # Errors
    /// What the system says of a file that cannot be mapped or read, or is too long for the address
    /// space.
    pub fn of(file: &File) -> Result<Map> {
        let map = Map::unread(file)?;
        if map.length == 0 {
            return Ok(map);
        }
        let start = map.start.as_ptr().cast();
        // So that a disk that fails is told now. SAFETY: only asks for the pages of our own mapping.
        match unsafe { madvise(start, map.length, Advice::LinuxPopulateRead) } {
            // The latter before Linux 5.14.
            Ok(()) | Err(Errno::INVAL) => Ok(map),
            Err(Errno::FAULT) => Err(Errno::IO),
            Err(errno) => Err(errno),
        }
    }

    /// Map an open file as long as it is now. Of what cannot be read later all becomes zeros.
    ///
    /// # Errors
    /// What the system says of a file that cannot be mapped, or is too long for the address space.
    pub fn unread(file: &File) -> Result<Map> {
        let length = rustix::fs::fstat(file)?.st_size;
        let length = usize::try_from(length).map_err(|_| Errno::OVERFLOW)?;
        if length == 0 {
            // The kernel maps nothing of no length.
            return Ok(Map {
                start: NonNull::dangling(),
                length,
                slot: None,
            });
        }
        catch_bus_errors();
        // SAFETY: a new mapping at an address that the kernel chooses; it takes no memory of ours.
        let start = unsafe {
            let none = std::ptr::null_mut();
            mmap(none, length, ProtFlags::READ, MapFlags::PRIVATE, file, 0)?
        };
        let start = NonNull::<u8>::new(start.cast()).ok_or(Errno::NOMEM)?;
        let slot = Slot::take(start.as_ptr().addr(), length);
        Ok(Map {
            start,
            length,
            slot,
        })
    }

    /// Give back the memory that its pages take. They come again, from the page cache or the disk,
    /// when they are read.
    pub fn release(&self) {
        if self.length == 0 {
            return;
        }
        // SAFETY: the mapping is private and never written to, so what is read again is the file.
        // (Or zeros, where the signal handler has put them.)
        let released = unsafe {
            madvise(
                self.start.as_ptr().cast(),
                self.length,
                Advice::LinuxDontNeed,
            )
        };
        debug_assert!(released.is_ok());
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `length` readable bytes are mapped at `start` until `drop` (of none, any address
        // that is not null will do). The store never changes a file that it has given a name; if
        // somebody else does, bytes are read that are not the file's, but nothing else is: whoever
        // reads them takes any bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // First, so that the handler never touches memory that is somebody else's by then.
        if let Some(slot) = self.slot {
            slot.give_back();
        }
        if self.length > 0 {
            // SAFETY: what `of` mapped; no reference to it outlives this value.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
            debug_assert!(unmapped.is_ok());
        }
    }
}

/// A mapping, for the signal handler: that may use no lock and no memory of the heap.
#[derive(Debug)]
struct Slot {
    /// [`FREE`], [`TAKEN`] or the address.
    start: AtomicUsize,
    length: AtomicUsize,
}

const FREE: usize = 0;
const TAKEN: usize = 1;

/// More than an image may have layers.
static SLOTS: [Slot; 640] = [const {
    Slot {
        start: AtomicUsize::new(FREE),
        length: AtomicUsize::new(0),
    }
}; 640];

impl Slot {
    fn take(start: usize, length: usize) -> Option<&'static Slot> {
        let free = SLOTS.iter().find(|slot| {
            let order = Ordering::AcqRel;
            let taken = slot
                .start
                .compare_exchange(FREE, TAKEN, order, Ordering::Relaxed);
            taken.is_ok()
        })?;
        free.length.store(length, Ordering::Release);
        free.start.store(start, Ordering::Release);
        Some(free)
    }

    fn give_back(&self) {
        self.start.store(FREE, Ordering::Release);
    }

    fn contains(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        let length = self.length.load(Ordering::Acquire);
        start > TAKEN && (start..start + length).contains(&address)
    }
}

/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn catch_bus_errors() {
    BEFORE.get_or_init(|| {
        // SAFETY: both structures are ours and, but for what is set, all zeros, as sigaction(2) takes
        // them; the handler does what signal-safety(7) allows.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_bus_error as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigaction(libc::SIGBUS, &ours, &mut before);
            before
        }
    });
}

/// Makes a mapping of ours zeros, and lets the read go on; anything else is left to who was asked
/// before.
extern "C" fn on_bus_error(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid structure, and with SIGBUS the address.
    let address = unsafe { (*info).si_addr() }.addr();
    if let Some(slot) = SLOTS.iter().find(|slot| slot.contains(address)) {
        let start = std::ptr::without_provenance_mut(slot.start.load(Ordering::Acquire));
        let length = slot.length.load(Ordering::Acquire);
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: all of a mapping of ours, which is being read and so not unmapped yet, is replaced
        // by zeros of the same length. (The call sets errno only if it fails, and then we end.)
        let mapped = unsafe { libc::mmap(start, length, libc::PROT_READ, flags, -1, 0) };
        if mapped != libc::MAP_FAILED {
            return;
        }
    }
    // SAFETY: gives the signal back; the instruction that caused it is repeated and causes it again.
    unsafe {
        match BEFORE.get() {
            Some(before) => libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()),
            None => libc::sigaction(libc::SIGBUS, &std::mem::zeroed(), std::ptr::null_mut()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn shows_what_is_in_the_file_also_when_its_name_is_gone() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(Map::of(&file).unwrap().as_ref(), b"");
        file.write_all(&[7; 10_000]).unwrap();
        let map = Map::of(&file).unwrap();
        drop(file);
        assert_eq!(map.as_ref(), [7; 10_000]);
    }

    /// How much of a mapping is in this process's page tables, in bytes.
    fn resident(map: &Map) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let range = format!("{:x}-", map.start.as_ptr().addr());
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&range));
        let line = lines.find(|line| line.starts_with("Rss:")).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    #[test]
    fn what_is_released_takes_no_memory_until_it_is_read_again() {
        const LENGTH: usize = 1 << 22;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; LENGTH]).unwrap();
        let map = Map::of(&file).unwrap();
        assert_eq!(resident(&map), LENGTH);
        map.release();
        assert_eq!(resident(&map), 0);
        assert_eq!(map.as_ref()[LENGTH - 1], 7);
        assert!((1..LENGTH).contains(&resident(&map)));
        let unread = Map::unread(&file).unwrap();
        assert_eq!(resident(&unread), 0);
        assert_eq!(unread.as_ref(), map.as_ref());
        Map::unread(&tempfile::tempfile().unwrap())
            .unwrap()
            .release();
    }

    #[test]
    fn what_is_cut_short_becomes_zeros() {
        for _ in 0..3 {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[7; 50_000]).unwrap();
            let (map, other) = (Map::of(&file).unwrap(), Map::of(&file).unwrap());
            file.set_len(5_000).unwrap();
            assert_eq!(std::hint::black_box(map.as_ref())[4_000], 7);
            assert_eq!(std::hint::black_box(map.as_ref())[40_000], 0);
            assert_eq!(std::hint::black_box(map.as_ref())[4_000], 0);
            assert_eq!(std::hint::black_box(other.as_ref())[4_000], 7);
        }
    }
}
