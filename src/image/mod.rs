//! Images: loading, making, naming and removing them.

pub mod change;
pub mod commit;
pub mod config;
mod crew;
pub mod import;
pub mod load;
pub mod progress;
pub mod publish;
pub mod removal;
pub mod removal_plan;
pub mod resolve;
pub mod save;
pub mod tag;

pub use resolve::{ResolveError, Resolved, resolve};
