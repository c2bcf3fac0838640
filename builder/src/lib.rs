//! Builds OCI images for inference.
