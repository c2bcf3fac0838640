//! The options of sessions and runs, as the protobuf messages that TensorFlow takes.

use std::time::Duration;

use super::gpu::GpuOptions;
use crate::config::Xla;

/// A `ConfigProto`: threads, how often the graph is rewritten, and whether whole clusters of operators are compiled.
///
/// TensorFlow rewrites the whole graph three times until a model answers, for restoring, initialising and serving, in two rounds each and
/// with a second rewriter (`tfg`) beside the first. One round of the first gives kernels that are as fast, in two thirds of the start:
/// 1.26 s instead of 1.86 s for a ResNet50, whose answers take 50 ms either way.
///
/// `gpu` holds the options of a GPU, and whether nodes that it has no kernel for may run on the CPU although the model puts them there.
pub(super) fn session(threads: usize, xla: Xla, gpu: Option<(&GpuOptions, bool)>) -> Vec<u8> {
    let mut graph = Vec::new();
    if xla == Xla::Auto {
        let mut optimizer = Vec::new();
        // On the CPU the level alone does nothing.
        integer(&mut optimizer, 5, 2);
        integer(&mut optimizer, 7, 1);
        message(&mut graph, 3, &optimizer);
    }
    let mut rewriter = Vec::new();
    integer(&mut rewriter, 12, 1);
    integer(&mut rewriter, 32, 1);
    message(&mut graph, 10, &rewriter);
    let mut config = Vec::new();
    integer(&mut config, 2, threads as u64);
    integer(&mut config, 5, threads as u64);
    message(&mut config, 10, &graph);
    if let Some((gpu, soft_placement)) = gpu {
        let mut options = Vec::new();
        if gpu.memory_fraction > 0.0 {
            varint(&mut options, 1 << 3 | 1);
            options.extend(gpu.memory_fraction.to_le_bytes());
        }
        integer(&mut options, 4, u64::from(gpu.allow_growth));
        if !gpu.visible.is_empty() {
            message(&mut options, 5, gpu.visible.as_bytes());
        }
        message(&mut config, 6, &options);
        integer(&mut config, 7, u64::from(soft_placement));
    }
    config
}

/// `RunOptions` as of [`run`], of a run that gives the graphs that it runs, as they are divided among devices.
pub(super) fn telling_run(timeout: Duration) -> Vec<u8> {
    let mut options = run(timeout);
    integer(&mut options, 5, 1);
    options
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
        let rewriter = [0x52, 5, 0x60, 1, 0x80, 2, 1];
        assert_eq!(session(2, Xla::Off, None), [&[0x10, 2, 0x28, 2, 0x52, 7][..], &rewriter].concat());
        assert_eq!(
            session(1, Xla::Auto, None),
            [&[0x10, 1, 0x28, 1, 0x52, 13, 0x1a, 4, 0x28, 2, 0x38, 1][..], &rewriter].concat()
        );
        assert_eq!(run(Duration::from_secs(1)), [0x10, 0xe8, 0x07]);
        assert_eq!(telling_run(Duration::from_secs(1)), [0x10, 0xe8, 0x07, 0x28, 1]);
        let gpu = GpuOptions { allow_growth: true, memory_fraction: 0.5, visible: "1".to_owned() };
        let options = [&[0x32, 14, 9][..], &0.5_f64.to_le_bytes(), &[0x20, 1, 0x2a, 1, b'1', 0x38, 1]].concat();
        assert!(session(1, Xla::Off, Some((&gpu, true))).ends_with(&options));
    }
}
