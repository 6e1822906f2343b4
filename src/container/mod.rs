//! Containers: their lifecycle, and the views that serve them.

pub mod attach;
pub mod bundle;
pub mod changes;
pub mod copy;
pub mod entry;
pub mod find;
pub mod lifecycle;
pub mod lock;
pub mod lower;
pub mod monitor;
pub mod output_log;
pub mod process;
pub mod remains;
pub mod runtime;
pub mod spec;
pub mod unserved;
pub mod users;
pub mod view;

pub use find::{FindError, find};
