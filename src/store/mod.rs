//! The store on disk: its layout, staging, unpacking of layers and making their tars again.

mod directories;
pub mod error;
pub mod index;
pub mod layout;
pub mod lock;
pub mod remove_tree;
pub mod reserve;
pub mod staging;
pub mod tar_split;
pub mod unpack;
pub mod usage;

pub use error::StoreError;
pub use layout::Store;
