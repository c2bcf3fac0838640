//! The documents of a made-up report.
