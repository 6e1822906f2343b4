//! Deferred deletion: pins, the plan of what may go, and its execution.
