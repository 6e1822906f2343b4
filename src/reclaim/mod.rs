//! Deferred deletion: pins, the plan of what may go, and its execution.
//!
//! Nothing that an image names or a view pins is ever deleted. [`plan`] decides from what is on
//! record, [`pins`] from the locks, and the locks have the last word.

pub mod execute;
pub mod pins;
pub mod plan;
