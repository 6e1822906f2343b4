//! Deferred deletion: pins, the plan of what may go, and its execution.
//!
//! Nothing that an image names or a view pins is ever deleted. Which layers are marked is on record
//! (`db`), [`plan`] says what no record explains, and the locks of [`pins`] have the last word.

pub mod execute;
pub mod pace;
pub mod pins;
pub mod plan;
