//! The union filesystem: a writable upper directory over read-only layers.
