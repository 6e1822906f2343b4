//! Files mapped into memory.

use std::fs::File;
use std::path::Path;

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
