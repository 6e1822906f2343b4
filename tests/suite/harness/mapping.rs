//! Files mapped into memory.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;

/// Maps a whole file, read-only and shared.
#[track_caller]
pub fn map(path: &Path) -> memmap2::Mmap {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    map_file(&file)
}

/// Maps an open file as a whole, read-only and shared.
#[allow(unsafe_code)]
#[track_caller]
pub fn map_file(file: &File) -> memmap2::Mmap {
    // SAFETY: nothing in these tests truncates a file while it is mapped.
    unsafe { memmap2::Mmap::map(file) }.unwrap_or_else(|e| panic!("mmap: {e}"))
}

/// Maps an open file as a whole, for writing and shared.
#[allow(unsafe_code)]
#[track_caller]
pub fn map_for_writing(file: &File) -> memmap2::MmapMut {
    // SAFETY: as above.
    unsafe { memmap2::MmapMut::map_mut(file) }.unwrap_or_else(|e| panic!("mmap: {e}"))
}

/// A file mapped shared, to be written.
#[derive(Debug)]
pub struct Mapping(memmap2::MmapMut);

/// Maps an open file as a whole; `None` for an empty one.
///
/// # Errors
/// What `mmap` returns.
#[allow(unsafe_code)]
pub fn map_to_write(file: &File) -> Result<Option<Mapping>, Errno> {
    // Not a mapping that memmap2 would make up for it.
    if file.metadata().expect("fstat").len() == 0 {
        return Ok(None);
    }
    // SAFETY: whoever asks for bytes looks at the file's size before.
    let map = unsafe { memmap2::MmapMut::map_mut(file) };
    map.map(|map| Some(Mapping(map)))
        .map_err(|e| Errno::from_io_error(&e).expect("an error number"))
}

impl Mapping {
    /// All of it; what is beyond the end of the file by now must not be read.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Writes, and waits until the file has it.
    #[track_caller]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.0.flush().expect("msync");
    }
}
