//! Whether to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::BenchError;

/// Says whether the user has had enough. Clones say the same.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on everybody stops.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For `?` between two steps.
    ///
    /// # Errors
    /// [`BenchError::Interrupted`] if everybody is to stop.
    pub fn check(&self) -> Result<(), BenchError> {
        match self.is_asked() {
            true => Err(BenchError::Interrupted),
            false => Ok(()),
        }
    }
}
