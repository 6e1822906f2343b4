//! Digests, IDs, references, names and states: pure values, no input or output.
