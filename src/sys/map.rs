//! A file's contents in memory, mapped read-only: shared with whoever else maps it, and paged in as
//! they are read.

use std::fs::File;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::io::Result;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A file mapped whole. The file must never be cut short while this lives (reading beyond its end is
/// a SIGBUS): the files of a store are replaced by renames, never changed.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is only read, and nobody but `drop` unmaps it.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Map an open file as long as it is now.
    ///
    /// # Errors
    /// What the system says of a file that cannot be mapped or read, or is too long for the address
    /// space.
    pub fn of(file: &File) -> Result<Map> {
        let length = rustix::fs::fstat(file)?.st_size;
        let length = usize::try_from(length).map_err(|_| Errno::OVERFLOW)?;
        if length == 0 {
            // The kernel maps nothing of no length.
            let start = NonNull::dangling();
            return Ok(Map { start, length });
        }
        // SAFETY: a new mapping at an address that the kernel chooses; it takes no memory of ours.
        let start = unsafe {
            let none = std::ptr::null_mut();
            mmap(none, length, ProtFlags::READ, MapFlags::PRIVATE, file, 0)?
        };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        let map = Map { start, length };
        // Read now what a disk that fails would make a SIGBUS later. SAFETY: only asks for the pages
        // of our own mapping.
        match unsafe { madvise(start.as_ptr().cast(), length, Advice::LinuxPopulateRead) } {
            Ok(()) => Ok(map),
            // Before Linux 5.14.
            Err(Errno::INVAL) => Ok(map),
            Err(Errno::FAULT) => Err(Errno::IO),
            Err(errno) => Err(errno),
        }
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `length` readable bytes are mapped at `start` until `drop` (of none, any address
        // that is not null will do), and the store never changes a file that it has given a name.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: what `of` mapped; no reference to it outlives this value.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
            debug_assert!(unmapped.is_ok());
        }
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
}
