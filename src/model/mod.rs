//! Digests, IDs, references, names and states: pure values, no input or output.

pub mod copy;
pub mod digest;
pub mod human;
pub mod index;
pub mod layer;
pub mod name;
pub mod rate;
pub mod reference;
pub mod settings;
pub mod signal;
pub mod state;
pub mod tar;
pub mod tar_split;
pub mod xattr;

pub use digest::{BlobDigest, ChainId, ContainerId, DiffId, ImageId, ParseIdError};
pub use layer::{Layer, Phase};
pub use rate::{ParseRateError, Rate};
pub use reference::{ParseReferenceError, Reference};
pub use settings::Settings;
pub use state::{ContainerState, Driver, LayerState, Purpose};
