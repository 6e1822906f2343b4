//! The store on disk: its layout, staging, and unpacking of layers.

pub mod unpack;
