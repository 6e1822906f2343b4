//! Image archives: docker-archive and OCI, read and written.
