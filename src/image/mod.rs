//! Images: loading, naming and removing them.
