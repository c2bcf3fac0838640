//! Prints the metrics of pairs of NumPy files as JSON, a line each: `metrics EXPECTED.npy ACTUAL.npy …`. For `tests/tools/metrics_judge.py`.

use std::path::Path;

use imgbuild::verify::metrics::{Accumulator, MetricOptions};
use imgbuild::verify::read_npy;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    for pair in paths.chunks_exact(2) {
        let (expected, actual) = (read_npy(Path::new(&pair[0]))?, read_npy(Path::new(&pair[1]))?);
        let mut accumulator = Accumulator::new(MetricOptions::default());
        accumulator.add("pair", &expected, &actual);
        let line = serde_json::to_string(&accumulator.finish())?;
        std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes())?;
    }
    Ok(())
}
