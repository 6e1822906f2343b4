//! The rooms of layerctl that read what strangers wrote, and what must hold of them for any bytes.

#![allow(dead_code, unused_imports)] // used by the rooms that are not here

extern crate self as layerctl;

#[path = "../../src/archive/mod.rs"]
pub mod archive;
pub mod checks;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/store/mod.rs"]
pub mod store;
#[path = "../../src/sys/mod.rs"]
pub mod sys;
