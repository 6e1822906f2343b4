//! Layers unpacked without needing root.
