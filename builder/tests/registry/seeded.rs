//! Hundreds of pushes and pulls with faults drawn from a seed. Each ends with the right bytes in the registry, or with an error;
//! `IMGBUILD_FAULT_RUNS` says how many, `IMGBUILD_FAULT_SEED` runs one alone.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imgbuild::platform::Platform;
use imgbuild::registry::{Chunking, PushOptions, RegistryError, Settings, Timeouts};
use imgbuild::store::Store;
use tempfile::TempDir;

use super::docker::{self, PASSWORD, Registry, USER};
use super::http::Head;
use super::images::{Random, chain, client, digest_of, hasty, image, reference, with_password};
use super::proxy::{Fault, Options, Plan, Proxy};

/// Draws faults: `likely` in a hundred requests have one, until there were `most`.
fn plan(seed: u64, likely: u64, most: usize) -> Plan {
    let state = Mutex::new((Random(seed), most));
    Box::new(move |head, _| {
        let mut state = state.lock().expect("no panic");
        let (random, left) = &mut *state;
        if *left == 0 || random.below(100) >= likely {
            return None;
        }
        *left -= 1;
        Some(draw(random, head))
    })
}

fn draw(random: &mut Random, head: &Head) -> Fault {
    let body = head.length();
    let status = [500, 502, 503, 504, 429, 408][usize::try_from(random.below(6)).expect("small")];
    let wait = if random.below(2) == 0 { vec![("retry-after", random.below(30).to_string())] } else { vec![] };
    match random.below(if body > 0 { 11 } else { 6 }) {
        0 => Fault::Answer(status, wait),
        1 => Fault::CutBeforeAnswer,
        2 => Fault::CutAnswer(random.below(600)),
        3 if head.method() == "GET" => Fault::DamageAnswer(random.below(1 << 20)),
        3 => Fault::Hold(Duration::from_millis(random.below(40))),
        4 if matches!(head.method(), "PATCH" | "PUT") => {
            Fault::Answer([404, 416, 400][usize::try_from(random.below(3)).expect("small")], vec![])
        }
        4 => Fault::Answer(status, wait),
        5 => Fault::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())]),
        6 | 7 => Fault::CutRequest(random.below(body)),
        8 if head.method() == "PATCH" => Fault::Part(1 + random.below(body)),
        8 | 9 => Fault::DamageRequest(random.below(body)),
        _ => Fault::CutRequest(0),
    }
}

fn settings(host: &str) -> Settings {
    let timeouts = Timeouts { idle: Duration::from_secs(20), ..Timeouts::default() };
    with_password(Settings { timeouts, ..hasty() }, host, USER, PASSWORD)
}

/// What the runs came to.
#[derive(Default)]
struct Sum {
    pushed: u64,
    pulled: u64,
    faults: u64,
    errors: BTreeMap<String, usize>,
}

/// Runs at the same time: most of a run is waiting for the registry.
const AT_ONCE: usize = 4;

#[test]
fn every_run_ends_right_or_with_an_error() {
    let Some(registry) = Registry::start(&docker::Options { password: true, ..docker::Options::default() }) else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("IMGBUILD_FAULT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("IMGBUILD_FAULT_RUNS").unwrap_or(500),
    };
    let runs = seeds.end - seeds.start;
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    run(&registry, seed, &sum);
                }
            });
        }
    });
    let Sum { pushed, pulled, faults, errors } = sum.into_inner().expect("no panic");
    eprintln!("{runs} runs, {faults} faults: {pushed} pushed, {pulled} pulled; errors: {errors:?}");
    assert!(runs < 20 || (pushed > runs / 2 && pulled > runs / 4 && faults > runs), "the runs show nothing");
}

/// One push through faults, and one pull where the image arrived.
fn run(registry: &Registry, seed: u64, sum: &Mutex<Sum>) {
    let mut random = Random(seed ^ 0x5eed);
    let sizes: Vec<usize> = (0..1 + random.below(3)).map(|_| usize::try_from(random.below(150_000)).expect("small")).collect();
    let made = image(1000 + seed, &sizes);
    let options = PushOptions {
        chunking: if random.below(5) == 0 { Chunking::Whole } else { Chunking::Of(8_000 + random.below(50_000)) },
        parallel: 1 + usize::try_from(random.below(3)).expect("small"),
        ..PushOptions::default()
    };
    let proxy = Proxy::start(
        &registry.host,
        Options { buffering: random.below(2) == 0, relative_locations: random.below(2) == 0, ..Options::default() },
        plan(seed, 5 + random.below(40), usize::try_from(random.below(14)).expect("small")),
    );
    let repository = format!("seeded/run{seed}");
    let target = reference(format!("{}/{repository}:1", proxy.host()));
    let result = client(settings(&proxy.host())).push(&made.image, &target, &options);
    let happened = proxy.seen.faults.lock().expect("no panic").join("\n");
    let told = |what: &str| format!("seed {seed}: {what}; faults:\n{happened}");
    let there = registry.tagged(&repository, "1");
    let mut error_kind = None;
    match result {
        Ok(done) => {
            assert_eq!(done.digest, made.digest, "{}", told("another digest"));
            assert_eq!(there, Some(made.digest.to_string()), "{}", told("the tag is not there"));
            for blob in made.image.parsed.layers.iter().chain([&made.image.parsed.config]) {
                assert!(registry.linked(&repository, &blob.digest), "{}", told("a blob is not in the repository"));
                let path = registry.stored(&blob.digest).unwrap_or_else(|| panic!("{}", told("a blob is not there")));
                assert_eq!(digest_of(&path), blob.digest, "{}", told("a blob has other bytes"));
            }
        }
        Err(error) => {
            assert!(!happened.is_empty(), "{}", told(&chain(&error)));
            is_clear(&error, &told(&chain(&error)));
            // A tag that is there is right even where its answer was lost.
            assert!(there.is_none_or(|digest| digest == made.digest.to_string()), "{}", told("a wrong tag"));
            error_kind = Some(kind(&error));
        }
    }
    let pulled = if registry.tagged(&repository, "1").is_some() { pull(registry, &repository, &made, seed) } else { 0 };
    let mut sum = sum.lock().expect("no panic");
    sum.faults += happened.lines().count() as u64;
    sum.pulled += pulled;
    match error_kind {
        Some(kind) => *sum.errors.entry(kind).or_default() += 1,
        None => sum.pushed += 1,
    }
}

/// Reads an image back through faults: 1 where it succeeded, and then with the right bytes.
fn pull(registry: &Registry, repository: &str, made: &super::images::Made, seed: u64) -> u64 {
    let mut random = Random(seed ^ 0xfeed);
    let proxy = Proxy::start(
        &registry.host,
        Options::default(),
        plan(seed ^ 0xbeef, 5 + random.below(50), usize::try_from(random.below(8)).expect("small")),
    );
    let target = reference(format!("{}/{repository}:1", proxy.host()));
    let client = client(settings(&proxy.host()));
    let scratch = TempDir::new().expect("a folder");
    let store = Store::open(scratch.path()).expect("a store");
    let told = || format!("seed {seed}, pull; faults:\n{}", proxy.seen.faults.lock().expect("no panic").join("\n"));
    let result = client.open(&target, Platform::LinuxAmd64).and_then(|opened| {
        assert_eq!((&opened.manifest, &opened.config), (&made.image.manifest, &made.image.config), "{}", told());
        opened.parsed.layers.iter().map(|layer| client.download_blob(&target, layer, &store)).collect::<Result<Vec<_>, _>>()
    });
    match result {
        Ok(blobs) => {
            for (blob, layer) in blobs.iter().zip(&made.image.parsed.layers) {
                assert_eq!(digest_of(&blob.path), layer.digest, "{}", told());
            }
            1
        }
        Err(error) => {
            assert!(!proxy.seen.faults.lock().expect("no panic").is_empty(), "{}", chain(&error));
            is_clear(&error, &told());
            0
        }
    }
}

/// An error names the registry or the blob, and holds no signed address.
fn is_clear(error: &RegistryError, told: &str) {
    let text = chain(error);
    assert!(text.contains("127.0.0.1:") || text.contains("sha256:"), "{text}; {told}");
    assert!(!text.contains("_state") && !text.contains(PASSWORD), "{text}; {told}");
}

fn kind(error: &RegistryError) -> String {
    let text = format!("{error:?}");
    let status = error.status().map(|status| format!(" {status}")).unwrap_or_default();
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned() + &status
}
