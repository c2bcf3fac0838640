//! Figures, for `docs/decisions/0002-layer-bytes.md`: not run with the other tests.

use std::time::Instant;

use super::*;

/// Peak memory of this process, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

fn cpu_seconds() -> f64 {
    let usage = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = usage.rsplit(')').next().expect("after the name").split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

fn folder_of_files() -> BTreeMap<ImagePath, Entry> {
    let folder = std::env::var_os("IMGBUILD_MEASURE").expect("IMGBUILD_MEASURE names a folder of files");
    fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let file = entry.expect("readable").path();
            (path(&format!("/{}", file.file_name().expect("a name").display())), disk(&file))
        })
        .collect()
}

/// Size, time and memory of the layer of the files in IMGBUILD_MEASURE for the codecs in IMGBUILD_CODECS.
#[test]
#[ignore = "measures; needs IMGBUILD_MEASURE"]
fn codecs() {
    let tree = folder_of_files();
    let codecs = std::env::var("IMGBUILD_CODECS").unwrap_or_else(|_| "zstd".to_owned());
    for codec in codecs.split(',') {
        let (_folder, store) = store();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let outcome = write(&tree, &format(codec), &store, &Progress::silent()).expect("a layer");
        let size = outcome.layer.descriptor.size;
        eprintln!(
            "{codec}: {} -> {size} bytes, {:.2} s, {:.2} s of CPU, peak {} MiB",
            outcome.layer.unpacked,
            start.elapsed().as_secs_f64(),
            cpu_seconds() - cpu,
            peak()
        );
        assert!(size < outcome.layer.unpacked);
    }
}

/// An uncompressed layer against hashing and copying the same files.
#[test]
#[ignore = "measures; needs IMGBUILD_MEASURE"]
fn throughput() {
    let tree = folder_of_files();
    let time = |what: &str, work: &mut dyn FnMut()| {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        work();
        eprintln!("{what}: {:.2} s, {:.2} s of CPU, peak {} MiB", start.elapsed().as_secs_f64(), cpu_seconds() - cpu, peak());
    };
    let files: Vec<_> = tree
        .values()
        .map(|entry| match &entry.kind {
            Kind::File { content: Content::Disk(file), .. } => file.clone(),
            _ => unreachable!("made from a folder"),
        })
        .collect();
    for round in 0..2 {
        let (folder, store) = store();
        time("hash", &mut || {
            for file in &files {
                Digest::of_reader(File::open(file).expect("readable")).expect("readable");
            }
        });
        time("copy and sync", &mut || {
            for file in &files {
                let copy = folder.path().join("copy");
                fs::copy(file, &copy).expect("room");
                File::open(&copy).and_then(|copy| copy.sync_data()).expect("room");
                fs::remove_file(copy).expect("ours");
            }
        });
        let mut first = None;
        time("layer, digests unknown", &mut || {
            first = Some(write(&tree, &format("none"), &store, &Progress::silent()).expect("a layer"));
        });
        fs::remove_file(first.expect("written").layer.path.expect("built here")).expect("ours");
        let mut again = None;
        time("layer, digests known", &mut || {
            again = Some(write(&tree, &format("none"), &store, &Progress::silent()).expect("a layer"));
        });
        assert!(!again.expect("written").reused);
        time("layer, found again", &mut || {
            assert!(write(&tree, &format("none"), &store, &Progress::silent()).expect("a layer").reused);
        });
        eprintln!("round {round} is over");
    }
}
