//! `layerctl`: a daemonless layer store with deferred deletion.
//!
//! Images are unpacked into content-addressed layers, containers see them through a FUSE union
//! filesystem, and a layer that is removed by force stays until the last view that reads it ends.
//!
//! Data flows one way: `cli → image, container, reclaim, union, bench → archive, store, db → sys`. All may
//! use [`model`], which does no input or output. `tests/tidy.rs` checks this.

pub mod archive;
pub mod bench;
pub mod cli;
pub mod container;
pub mod db;
pub mod image;
pub mod model;
pub mod reclaim;
pub mod store;
pub mod sys;
pub mod union;
