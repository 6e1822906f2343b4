//! The only unsafe code and the only raw system calls.
#![allow(unsafe_code)]

pub mod dirfd;
pub mod fusermount;
