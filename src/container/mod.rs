//! Containers: their states, and the views that serve them.
