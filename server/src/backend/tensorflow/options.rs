//! The options of sessions and runs, as the protobuf messages that TensorFlow takes.

use std::time::Duration;

use crate::config::Xla;

/// A `ConfigProto`: threads, and whether whole clusters of operators are compiled.
pub(super) fn session(threads: usize, xla: Xla) -> Vec<u8> {
    let mut config = Vec::new();
    integer(&mut config, 2, threads as u64);
    integer(&mut config, 5, threads as u64);
    if xla == Xla::Auto {
        let mut optimizer = Vec::new();
        // On the CPU the level alone does nothing.
        integer(&mut optimizer, 5, 2);
        integer(&mut optimizer, 7, 1);
        let mut graph = Vec::new();
        message(&mut graph, 3, &optimizer);
        message(&mut config, 10, &graph);
    }
    config
}

/// `RunOptions` with the time after which a run is stopped.
pub(super) fn run(timeout: Duration) -> Vec<u8> {
    let mut options = Vec::new();
    integer(&mut options, 2, u64::try_from(timeout.as_millis()).unwrap_or(i64::MAX as u64).min(i64::MAX as u64));
    options
}

fn integer(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn message(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_tensorflow_takes() {
        assert_eq!(session(2, Xla::Off), [0x10, 2, 0x28, 2]);
        assert_eq!(session(1, Xla::Auto), [0x10, 1, 0x28, 1, 0x52, 6, 0x1a, 4, 0x28, 2, 0x38, 1]);
        assert_eq!(run(Duration::from_secs(1)), [0x10, 0xe8, 0x07]);
    }
}
