//! The only unsafe code and the only raw system calls.
#![allow(unsafe_code)]

pub mod descriptors;
pub mod dirfd;
pub mod fusermount;
pub mod in_root;
pub mod mounts;
pub mod processes;
pub mod remove_tree;
