//! Benchmarks: on which disk they run, what is measured beside what, and how figures are made of it.
//!
//! Everything is measured from outside, as a user meets it: this program and its peers are run as
//! processes, on a file system that was made a moment ago. A figure is the median of several rounds in
//! which the contestants take turns, or a percentile of single operations. What fails or is missing gives
//! its reason, and no figure.
//!
//! Not here: arguments, tables and pictures, which are `cli`'s.

pub mod daemon;
pub mod disk;
pub mod error;
pub mod figures;
pub mod fs;
pub mod image;
pub mod layerctl;
pub mod load;
pub mod machine;
pub mod neighbour;
pub mod peers;
pub mod program;
pub mod reclaim;
pub mod space;
pub mod stop;

pub use error::BenchError;
