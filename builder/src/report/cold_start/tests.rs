//! Reports are read back as they were written, and refused in plain words where they are not what was written.

use std::path::Path;

use super::*;
use crate::digest::Digest;

fn spread(samples: &[f64]) -> Spread {
    Spread::of(samples.to_vec()).expect("samples")
}

fn report() -> ColdStartReport {
    let phases = Phase::ALL.map(|phase| PhaseTimes { phase, times: spread(&[3.0, 1.0, 2.5]) });
    ColdStartReport {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        imgbuild: "0.1.0".to_owned(),
        image: ImageIdentity { digest: Digest::of(b"m"), config: Digest::of(b"c"), platform: "linux/amd64".to_owned() },
        model: "m".to_owned(),
        stack: Some("onnx-cpu".to_owned()),
        source: Source::Local,
        runner: "embedded".to_owned(),
        link: Some(Link { bits_per_second: 1e9, latency_ms: 5.0 }),
        machine: Machine {
            cpu: "a CPU".to_owned(),
            architecture: "x86_64".to_owned(),
            cores: 2,
            memory: 8 << 30,
            kernel: "Linux 6".to_owned(),
            disk: "ext4 on /dev/x".to_owned(),
        },
        session: Some("0123456789abcdef".to_owned()),
        columns: vec![Column {
            cache: PageCache::Cold,
            how: "dropped".to_owned(),
            phases: phases.to_vec(),
            start_to_first_answer: spread(&[24.0, 8.0, 20.0]),
            contention: Some(0.125),
        }],
        steady: Vec::new(),
        peak_memory: None,
        touched: Vec::new(),
        predictions: Vec::new(),
    }
}

fn refused(text: &str) -> String {
    let error = ColdStartReport::parse(text, Path::new("r.json")).expect_err("it is refused");
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[test]
fn a_report_is_read_back_as_it_was_written() {
    let report = report();
    assert_eq!(ColdStartReport::parse(&report.to_json(), Path::new("r.json")).expect("a report"), report);
    assert!((ColdStartReport::total(&report.columns[0]) - 27.5).abs() < 1e-9);
    let table = render(&report);
    for part in [
        "cold, 3 runs",
        "first_inference",
        "2.5 (1.0 – 3.0)",
        "20.0 (8.0 – 24.0)",
        "over 1Gbit/s,5ms",
        "waited for a CPU                          12 %",
    ] {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
}

#[test]
fn reports_that_were_cut_edited_or_are_of_another_kind_are_refused_in_plain_words() {
    let text = report().to_json();
    let cut = refused(&text[..text.len() / 2]);
    assert!(cut.contains("is no `imgbuild.cold-start` report") && cut.contains("EOF"), "{cut}");
    let edited = refused(&text.replacen("\"median\": 2.5", "\"median\": 1.5", 1));
    assert_eq!(edited, "`r.json` contradicts itself: the median of resolve is 1.5 ms, and its samples give 2.5 ms");
    let sample = refused(&text.replacen("2.5\n", "0.5\n", 1));
    assert!(sample.contains("the median of resolve is 2.5 ms, and its samples give 1 ms"), "{sample}");
    let negative = refused(&text.replacen("1.0,", "-1.0,", 1));
    assert!(negative.contains("a sample of the median of resolve is -1 ms"), "{negative}");
    let more_than_all = refused(&text.replacen("0.125", "1.125", 1));
    assert_eq!(more_than_all, "`r.json` contradicts itself: `contention` is 1.125, expected 0 to 1");
    let newer = refused(&text.replacen("\"version\": 1", "\"version\": 2", 1));
    assert!(newer.contains("version 2, expected `imgbuild.cold-start` version 1"), "{newer}");
    let other = refused(&text.replacen(SCHEMA, "imgbuild.size", 1));
    assert!(other.contains("is `imgbuild.size` version 1, expected `imgbuild.cold-start`"), "{other}");
    let unknown = refused(&text.replacen("\"model\"", "\"modell\"", 1));
    assert!(unknown.contains("modell"), "{unknown}");
    let empty = refused(&text.replacen("\"start_to_first_answer\": {\n        \"median\": 20.0,\n        \"samples\": [\n          24.0,\n          8.0,\n          20.0\n        ]", "\"start_to_first_answer\": {\n        \"median\": 20.0,\n        \"samples\": []", 1));
    assert!(empty.contains("start_to_first_answer"), "{empty}");
}

#[test]
fn links_round_trip_and_others_are_refused() {
    for text in ["1Gbit/s,5ms", "100Mbit/s,20ms", "1.5Mbit/s,0.5ms", "56kbit/s,200ms"] {
        assert_eq!(text.parse::<Link>().expect("a link").to_string(), text);
    }
    assert_eq!("10Gbit/s".parse::<Link>().expect("a link"), Link { bits_per_second: 1e10, latency_ms: 0.0 });
    for bad in [
        "",
        "1Gbit/s,",
        "5ms",
        "1GB/s,5ms",
        "0Mbit/s",
        "-1Mbit/s",
        "1e3Mbit/s",
        "infMbit/s",
        "1Gbit/s,5s",
        "9999Gbit/s",
        "1Mbit/s,99999ms",
    ] {
        assert_eq!(bad.parse::<Link>().expect_err(bad).found, bad);
    }
}
