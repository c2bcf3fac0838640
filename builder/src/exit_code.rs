//! The command's exit codes. They are part of its contract: scripts branch on them.

/// Everything asked for was done.
pub const SUCCESS: u8 = 0;
/// Something failed that no other code names.
pub const FAILURE: u8 = 1;
/// The command line could not be understood.
pub const USAGE: u8 = 2;
/// A model, recipe, report, image or reference cannot be used as it is.
pub const UNUSABLE_INPUT: u8 = 3;
/// The lock is missing or stale and `--locked` was given, or it was written by a newer version.
pub const LOCK: u8 = 4;
/// A pinned file cannot be had: not found, wrong digest, or not in the store with `--offline`.
pub const FETCH: u8 = 5;
/// The image would not link: a library, symbol or version is missing.
pub const LINK: u8 = 6;
/// The image was built and is over a budget, or answers otherwise than a policy allows.
pub const OVER_BUDGET: u8 = 7;
/// A registry or container daemon refused or could not be reached.
pub const DESTINATION: u8 = 8;
/// The disk or the store cannot be read or written.
pub const STORAGE: u8 = 9;
/// A container did not start, or ended before it was ready.
pub const CONTAINER: u8 = 10;

/// An image will not run on this host.
pub const UNFIT_HOST: u8 = 11;

/// The table that `--help` shows.
pub const HELP: &str = "Exit codes:
  0  done
  1  failed otherwise
  2  the command line could not be understood
  3  a model, recipe, report, image or reference cannot be used
  4  the lock is missing or stale (with --locked), or from a newer version
  5  a pinned file cannot be had: gone, wrong digest, or not in the store with --offline
  6  the image would not link
  7  over a budget, or other answers than a policy allows
  8  a registry or container daemon refused or could not be reached
  9  the disk or the store cannot be read or written
  10 a container did not start
  11 an image will not run on this host";
