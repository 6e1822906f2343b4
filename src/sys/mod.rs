//! The only unsafe code and the only raw system calls.
#![allow(unsafe_code)]

pub mod cgroups;
pub mod children;
pub mod descriptors;
pub mod dirfd;
pub mod fusermount;
pub mod in_root;
pub mod io_priority;
pub mod map;
pub mod mounts;
pub mod namespaces;
pub mod overlayfs;
pub mod processes;
pub mod remove_tree;
pub mod shrink;
pub mod terminal;
pub mod writeback;

use std::io;

/// The system's reason without the `(os error N)` that Rust adds.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rfind(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        _ => text,
    }
}
