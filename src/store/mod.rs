//! The store on disk: its layout, staging, and unpacking of layers.

mod directories;
pub mod error;
pub mod index;
pub mod layout;
pub mod lock;
pub mod remove_tree;
pub mod reserve;
pub mod staging;
pub mod unpack;
pub mod usage;

pub use error::StoreError;
pub use layout::Store;
