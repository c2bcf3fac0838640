//! Memory does not grow with a layer.

use imgbuild::registry::PushOptions;

use super::docker::{Options, Registry};
use super::images::{client, hasty, reference, sparse_image};

const SIZE: u64 = 1_200_000_000;
const MOST_KIB: u64 = 150 * 1024;
const CHILD: &str = "IMGBUILD_TEST_MEMORY_OF";

/// The most memory that this process ever held.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_push_of_more_than_a_gigabyte_stays_small() {
    if let Ok(host) = std::env::var(CHILD) {
        // In a process of its own, since the other tests count too.
        let made = sparse_image(SIZE);
        let target = reference(format!("{host}/big/model:1"));
        let pushed = client(hasty()).push(&made.image, &target, &PushOptions::default()).unwrap();
        assert!(pushed.bytes_sent > SIZE);
        eprintln!("digest {} peak {}", made.image.parsed.layers[0].digest, peak_kib());
        return;
    }
    let Some(registry) = Registry::start(&Options::default()) else { return };
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::a_push_of_more_than_a_gigabyte_stays_small", "--nocapture", "--test-threads=1"])
        .env(CHILD, &registry.host)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stdout));
    let line = text.lines().find_map(|line| line.split_once("digest ")).unwrap().1;
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(std::fs::metadata(registry.stored(&words[0].parse().unwrap()).unwrap()).unwrap().len(), SIZE);
    let peak: u64 = words[2].parse().unwrap();
    eprintln!("peak memory of a push of {SIZE} bytes: {peak} KiB");
    assert!(peak < MOST_KIB, "{peak} KiB, expected less than {MOST_KIB}");
}
