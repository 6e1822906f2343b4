//! Containers: their lifecycle, and the views that serve them.

pub mod changes;
pub mod copy;
pub mod find;
pub mod lifecycle;
pub mod lock;
pub mod lower;
pub mod view;

pub use find::{FindError, find};
