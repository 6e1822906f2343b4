//! Images: loading, naming and removing them.

pub mod config;
pub mod load;
pub mod removal;
pub mod removal_plan;
pub mod resolve;
pub mod tag;

pub use resolve::{ResolveError, Resolved, resolve};
