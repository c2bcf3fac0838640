//! What XLA compiled before: machine code, which only runs on a processor that has every feature it was compiled for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The features that the code in a folder may use, as the kernel names them.
const FLAGS_FILE: &str = "cpu-flags";

/// Why this machine cannot run what lies in a folder; `None` where it can, or the folder does not say what it needs.
pub fn unfit(folder: &Path) -> Option<String> {
    let needed = fs::read_to_string(folder.join(FLAGS_FILE)).ok()?;
    match fs::read_to_string("/proc/cpuinfo") {
        Ok(cpu) => missing(&needed, &cpu),
        Err(error) => Some(format!("/proc/cpuinfo cannot be read ({error}), so what the processor can do is not known")),
    }
}

fn missing(needed: &str, cpu: &str) -> Option<String> {
    let has: BTreeSet<&str> = cpu
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| matches!(key.trim(), "flags" | "Features"))
        .map(|(_, flags)| flags.split_whitespace().collect())
        .unwrap_or_default();
    let missing: Vec<&str> = needed.split_whitespace().filter(|flag| !has.contains(flag)).collect();
    let shown = missing.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    (!missing.is_empty()).then(|| format!("it was compiled for a processor with {shown}, which this one lacks"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_must_have_every_feature() {
        let cpu = "processor: 0\nflags\t: fpu avx avx2\n";
        assert_eq!(missing("avx fpu\n", cpu), None);
        let reason = missing("avx avx512f fpu", cpu).expect("a feature is missing");
        assert!(reason.contains("with avx512f, which"), "{reason}");
        assert!(missing("avx", "").is_some());
    }
}
