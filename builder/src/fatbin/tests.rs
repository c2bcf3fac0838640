//! Libraries with fatbins made for the purpose: judged by the loader, by binutils, and by damage that the verifier must find.

use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::elf::tests::{compile, output};

const PLAIN: u64 = 0x11;
const SPECIFIC: u64 = 0x10_0011;
const FAMILY: u64 = 0x20_0011;
const ZSTD: u64 = 0x8011;

/// An entry: kind, architecture, flags, and a payload that says what it is.
fn entry(kind: u16, sm: u32, flags: u64, payload: usize) -> Vec<u8> {
    let mut content = vec![0; payload.next_multiple_of(8).max(64)];
    for (index, byte) in content.iter_mut().enumerate() {
        *byte = (index as u32 * 7 + sm + u32::from(kind)) as u8 | 1;
    }
    if flags & 0x8000 != 0 {
        content[..4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
    } else if kind == 2 {
        content[..4].copy_from_slice(b"\x7fELF");
        content[18..20].copy_from_slice(&190u16.to_le_bytes());
    }
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0x0101u16.to_le_bytes());
    bytes.extend(64u32.to_le_bytes());
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend((if flags & 0xa000 == 0 { 0 } else { content.len() as u32 - 3 }).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend([8, 0, 1, 0]);
    bytes.extend(sm.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(flags.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((content.len() as u64 * 3).to_le_bytes());
    bytes.extend(content);
    bytes
}

fn container(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = entries.concat();
    let mut bytes = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Functions that read a container's size through its wrapper, and text that lies behind the device code.
const READERS: &str = r#"
struct wrapper { int magic, version; const unsigned char *data; const void *name; };
extern struct wrapper wrappers[] __attribute__((visibility("hidden")));
unsigned long fatbin_sum(int index) {
    const unsigned char *data = wrappers[index].data;
    if (*(const unsigned *)data != 0xba55ed50) return 0;
    unsigned long sum = 0, size = *(const unsigned long *)(data + 8);
    for (unsigned long at = 0; at < size + 16; at++) sum = sum * 31 + data[at];
    return sum;
}
const char *text(void) { return "text of the library"; }
"#;

/// A library with these containers, a wrapper for each, and functions that read them.
fn library(folder: &Path, name: &str, containers: &[Vec<u8>], extra: &str, options: &[&str]) -> PathBuf {
    let mut assembly = String::from(".section .nvFatBinSegment,\\\"aw\\\"\\n.balign 8\\nwrappers:\\n");
    for (index, bytes) in containers.iter().enumerate() {
        let file = folder.join(format!("{name}-{index}.bin"));
        fs::write(&file, bytes).unwrap();
        let data = format!(".section .nv_fatbin,\\\"a\\\"\\n.balign 8\\nfatbin_{index}:\\n.incbin \\\"{}\\\"\\n", file.display());
        let wrapper = format!(".section .nvFatBinSegment,\\\"aw\\\"\\n.long 0x466243b1, 1\\n.quad fatbin_{index}, 0\\n");
        assembly.extend([data, wrapper]);
    }
    let source = format!("__asm__(\"{assembly}.text\\n\");\n{READERS}\n{extra}");
    compile(folder, name, &source, &[&["-shared", "-fPIC", "-O1"][..], options].concat())
}

/// Prunes a library, and gives the new bytes.
fn pruned(library: &[u8], gpus: &[u32]) -> Result<(Vec<u8>, PruneReport), FatbinError> {
    let gpus: Vec<Sm> = gpus.iter().map(|gpu| format!("sm_{gpu}").parse().unwrap()).collect();
    let mut file = tempfile::tempfile().unwrap();
    let report = prune(library, &gpus, &mut file)?;
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, report.bytes_after);
    Ok((bytes, report))
}

const BIG: usize = 200_000;

/// Containers as they occur: several architectures, one alone, PTX, variants.
fn usual() -> Vec<Vec<u8>> {
    vec![
        container(&[entry(2, 75, PLAIN, BIG), entry(2, 80, ZSTD, BIG), entry(2, 86, PLAIN, BIG), entry(2, 90, SPECIFIC, BIG)]),
        container(&[entry(2, 90, SPECIFIC, BIG)]),
        container(&[entry(2, 70, PLAIN, 900), entry(2, 80, PLAIN, BIG), entry(1, 80, PLAIN, 5000), entry(1, 90, PLAIN, 5000)]),
        container(&[entry(2, 100, FAMILY, 4000), entry(2, 100, SPECIFIC, 4000), entry(1, 75, PLAIN, 4000)]),
        container(&[entry(2, 90, SPECIFIC, BIG)]),
        container(&[entry(2, 75, PLAIN, 100)]),
    ]
}

fn made(extra: &str, options: &[&str]) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = library(folder.path(), "libdevice.so", &usual(), extra, options);
    let bytes = fs::read(&path).unwrap();
    (folder, path, bytes)
}

/// What each wrapper's container holds, and `-` where no GPU can use it.
fn used(library: &[u8], gpus: &[u32]) -> Vec<String> {
    let memory = Memory::parse(library).unwrap();
    let fatbins = Fatbins::read(&memory).unwrap();
    let mut found: Vec<(u64, String)> = Vec::new();
    for (region, container) in fatbins.containers() {
        let is_used = |entry: &Entry<'_>| {
            gpus.iter().map(|gpu| format!("sm_{gpu}").parse::<Sm>().unwrap()).any(|gpu| match entry.kind {
                CodeKind::Elf => gpu.runs(entry.architecture),
                CodeKind::Ptx => gpu.compiles(entry.architecture),
            })
        };
        let name = |entry: &Entry<'_>| match entry.kind {
            CodeKind::Elf => entry.architecture.to_string(),
            CodeKind::Ptx => entry.architecture.to_string().replace("sm_", "compute_"),
        };
        let names: Vec<String> = container.entries.iter().map(name).collect();
        let names = if container.entries.iter().any(is_used) { names.join(" ") } else { "-".to_owned() };
        found.extend(region.wrappers.iter().map(|&word| (word, names.clone())));
    }
    found.sort();
    found.into_iter().map(|(_, names)| names).collect()
}

#[test]
fn keeps_what_each_gpu_would_use() {
    for options in [&[][..], &["-Wl,-z,pack-relative-relocs"], &["-Wl,-z,noseparate-code"]] {
        let (_folder, _, data) = made("", options);
        for (gpus, expected) in [
            (&[75][..], ["sm_75", "-", "sm_70", "compute_75", "-", "sm_75"]),
            (&[80], ["sm_80", "-", "sm_80", "compute_75", "-", "-"]),
            (&[86], ["sm_86", "-", "sm_80", "compute_75", "-", "-"]),
            (&[90], ["sm_90a", "sm_90a", "compute_90", "compute_75", "sm_90a", "-"]),
            (&[100], ["-", "-", "compute_90", "sm_100f sm_100a", "-", "-"]),
            (&[103], ["-", "-", "compute_90", "sm_100f", "-", "-"]),
            (&[120], ["-", "-", "compute_90", "compute_75", "-", "-"]),
            (&[86, 75], ["sm_75 sm_86", "-", "sm_70 sm_80", "compute_75", "-", "sm_75"]),
        ] {
            let (bytes, report) = pruned(&data, gpus).unwrap();
            assert_eq!(used(&bytes, gpus), expected, "{options:?}, {gpus:?}");
            let without = expected.iter().filter(|names| **names == "-").count() as u64;
            assert_eq!((report.containers, report.containers_without_code), (6, without), "{gpus:?}");
            assert!(report.left_whole.is_empty(), "{report:?}");
            assert!(bytes.len() < data.len() - BIG, "{gpus:?}: {} of {}", bytes.len(), data.len());
            let entries = |shares: &[Share]| shares.iter().map(|share| share.entries).sum::<u64>();
            assert_eq!(entries(&report.kept) + entries(&report.dropped), 14);
            assert_eq!(pruned(&data, gpus).unwrap().0, bytes, "equal arguments, equal bytes");
        }
    }
}

#[test]
fn prunes_a_pruned_library_further() {
    let (_folder, _, data) = made("", &[]);
    let (both, _) = pruned(&data, &[75, 86]).unwrap();
    let (again, report) = pruned(&both, &[75, 86]).unwrap();
    assert_eq!(used(&again, &[75, 86]), used(&both, &[75, 86]));
    assert_eq!(report.dropped.iter().map(|share| share.entries).sum::<u64>(), 1, "the donor is given up and put back");
    let (one, _) = pruned(&both, &[75]).unwrap();
    assert_eq!(used(&one, &[75]), used(&pruned(&data, &[75]).unwrap().0, &[75]));
}

const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
// The unwinder finds a library's frames by its program headers.
static int frames(struct dl_phdr_info *info, size_t size, void *found) {
    for (int i = 0; strstr(info->dlpi_name, ".so") && i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_GNU_EH_FRAME) *(int *)found += strstr(info->dlpi_name, *(char **)((int *)found + 2)) != 0;
    return size == 0;
}
int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    unsigned long (*sum)(int) = (unsigned long (*)(int))dlsym(library, "fatbin_sum");
    const char *(*text)(void) = (const char *(*)(void))dlsym(library, "text");
    struct { int found, unused; const char *name; } search = {0, 0, arguments[1]};
    dl_iterate_phdr(frames, &search);
    printf("%s, frames %d\n", text(), search.found);
    for (int i = 0; i < 6; i++) printf("%lx\n", sum(i));
    return count != 2;
}
"#;

#[test]
fn the_loader_and_binutils_take_the_result() {
    for options in [&[][..], &["-Wl,-z,pack-relative-relocs"], &["-Wl,-z,now"]] {
        let (folder, path, data) = made("", options);
        let program = compile(folder.path(), "program", PROGRAM, &["-ldl"]);
        let run = |path: &Path| -> Vec<String> {
            output(program.to_str().unwrap(), &[path.to_str().unwrap()]).lines().map(str::to_owned).collect()
        };
        // All stays of a container that has nothing else; of the others the sums are those of the containers as they must be.
        let (bytes, _) = pruned(&data, &[75]).unwrap();
        let cut = folder.path().join("cut.so");
        fs::write(&cut, &bytes).unwrap();
        let sum =
            |bytes: &[u8]| format!("{:x}", bytes.iter().fold(0u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into())));
        let donor = sum(&container(&[entry(2, 90, SPECIFIC, BIG)]));
        let expected = [
            "text of the library, frames 1".to_owned(),
            sum(&container(&[entry(2, 75, PLAIN, BIG)])),
            donor.clone(),
            sum(&container(&[entry(2, 70, PLAIN, 900)])),
            sum(&container(&[entry(1, 75, PLAIN, 4000)])),
            donor,
            sum(&usual()[5]),
        ];
        assert_eq!(run(&cut), expected, "{options:?}");
        assert_eq!(run(&path)[6], expected[6]);
        // Tools that do not relocate find the containers too: the words hold the new addresses.
        let listed = output("readelf", &["-lSrW", cut.to_str().unwrap()]);
        assert!(!listed.contains("Warning") && listed.contains(".nv_fatbin"), "{listed}");
    }
}

#[test]
fn what_is_unknown_or_damaged_stays_whole() {
    let (_folder, _, data) = made("", &[]);
    let (clean, _) = pruned(&data, &[75]).unwrap();
    let memory = Memory::parse(&data).unwrap();
    let second = Fatbins::read(&memory).unwrap().regions[2].bytes.as_ptr() as usize - data.as_ptr() as usize;
    for (at, value, expected) in [
        (second, 0x51, "container magic at byte 0 is 0xba55ed51, expected 0xba55ed50"),
        (second + 4, 2, "container version at byte 4 is 0x2, expected 1"),
        (second + 6, 24, "container header size at byte 6 is 0x18, expected 16"),
        (second + 14, 1, "container at byte 0 needs"),
        (second + 16, 8, "entry kind at byte 16 is 0x8, expected 1 (PTX) or 2 (ELF)"),
        (second + 18, 2, "entry version"),
        (second + 20, 60, "entry header size"),
        (second + 24, 4, "payload size"),
        (second + 30, 255, "entry at byte 16 needs"),
        (second + 16 + 28, 1, "architecture at byte 44 is 0x1, expected a number from 10 to 999"),
        (second + 16 + 47, 1, "entry flags"),
        (second + 16 + 64, 0, "payload at byte 80 starts with `\\x00ELF`, expected an ELF file for CUDA"),
    ] {
        let mut damaged = data.clone();
        damaged[at] = value;
        let (bytes, report) = pruned(&damaged, &[75]).unwrap();
        assert_eq!(report.left_whole.len(), 1, "{expected}: {:?}", report.left_whole);
        assert!(report.left_whole[0].reason.contains(expected), "{}, expected {expected}", report.left_whole[0].reason);
        // The verifier has compared it; the others are pruned all the same.
        assert!(bytes.len() > clean.len() + BIG && bytes.len() < data.len() - 3 * BIG, "{expected}: {}", bytes.len());
    }
}

#[test]
fn what_something_else_uses_stays_whole() {
    let hidden = "extern const char fatbin_2[] __attribute__((visibility(\"hidden\")));";
    for (extra, reason) in [
        (format!("{hidden} const void *stray = fatbin_2;"), "points at it, which is no wrapper of version 1"),
        (format!("{hidden} const void *stray = fatbin_2 + 300;"), "are left"),
        ("__asm__(\".globl alias\\nalias = fatbin_2\\n\");".to_owned(), "a dynamic symbol names it"),
    ] {
        let (_folder, _, data) = made(&extra, &[]);
        let (bytes, report) = pruned(&data, &[75]).unwrap();
        assert!(report.left_whole.iter().any(|part| part.reason.contains(reason)), "{extra}: {:?}", report.left_whole);
        assert!(bytes.len() < data.len() - 3 * BIG);
    }
    // A wrapper of another version, and none at all.
    let (_folder, _, mut data) = made("", &[]);
    let head = [0xb1, 0x43, 0x62, 0x46, 1, 0, 0, 0];
    let first = data.windows(8).position(|bytes| bytes == head).unwrap();
    data[first + 4] = 2;
    let (_, report) = pruned(&data, &[75]).unwrap();
    assert!(report.left_whole[0].reason.contains("no wrapper of version 1"), "{:?}", report.left_whole);
}

#[test]
fn device_code_in_writable_memory_is_listed_and_not_pruned() {
    let (folder, _, data) = made("", &[]);
    let mut places = (0..data.len() - 4).filter(|&at| data[at..].starts_with(&super::format::MAGIC));
    let container = places.find_map(|at| Container::parse(&data[at..]).ok()).unwrap();
    let bytes: Vec<String> = container.bytes.iter().map(u8::to_string).collect();
    let source = format!("__attribute__((aligned(8))) unsigned char code[] = {{{}}};", bytes.join(","));
    let library = fs::read(compile(folder.path(), "data.so", &source, &["-shared", "-fPIC"])).unwrap();
    let listing = list(&library).unwrap();
    let [elsewhere] = listing.elsewhere.as_slice() else { panic!("{listing:?}") };
    assert_eq!((elsewhere.section.as_str(), elsewhere.containers), (".data", 1));
    assert_eq!(elsewhere.bytes, container.bytes.len() as u64);
    assert!(elsewhere.reason.contains("write") && listing.containers.is_empty() && listing.device_code_bytes == 0);
    let entries: u64 = elsewhere.architectures.iter().map(|share| share.entries).sum();
    assert_eq!(entries, container.entries.len() as u64);
    assert!(matches!(pruned(&library, &[75]), Err(FatbinError::NoDeviceCode)));
}

#[test]
fn refusals_name_what_is_wrong() {
    let (folder, _, data) = made("", &[]);
    let refusal = |data: &[u8], gpus: &[u32]| pruned(data, gpus).unwrap_err().to_string();
    assert_eq!(refusal(&data, &[]), "no GPU is named, expected at least one");
    assert_eq!(
        refusal(&data, &[75, 53]),
        "the library has no device code that runs on sm_53, only sm_70, sm_75, sm_80, sm_86, sm_90, sm_90a, sm_100a, sm_100f"
    );
    assert_eq!(refusal(b"text", &[75]), "the file starts with `text`, expected the ELF magic `\\x7fELF`");
    assert!(refusal(&data[..data.len() / 2], &[75]).ends_with("it was cut short"));
    let plain = compile(folder.path(), "plain.so", "int x = 1;", &["-shared", "-fPIC"]);
    let plain = fs::read(plain).unwrap();
    assert!(matches!(pruned(&plain, &[75]), Err(FatbinError::NoDeviceCode)) && list(&plain).is_err());
    let source = "__attribute__((section(\".nv_fatbin\"))) char data[64] = {1};";
    let writable = fs::read(compile(folder.path(), "writable.so", source, &["-shared", "-fPIC"])).unwrap();
    assert!(refusal(&writable, &[75]).ends_with("is in writable memory, expected read-only memory"));
}

#[test]
fn the_verifier_sees_every_change_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let containers = [
        container(&[entry(2, 75, PLAIN, 600), entry(2, 80, PLAIN, 90_000)]),
        container(&[entry(2, 75, ZSTD, 600), entry(2, 86, PLAIN, 90_000)]),
        container(&[entry(2, 90, PLAIN, 400)]),
    ];
    let path = library(folder.path(), "small.so", &containers, "", &["-Wl,-s"]);
    let data = fs::read(path).unwrap();
    let (bytes, _) = pruned(&data, &[75]).unwrap();
    let gpus = ["sm_75".parse().unwrap()];
    verify::verify(&data, &bytes, &gpus).unwrap();
    let memory = Memory::parse(&bytes).unwrap();
    let fatbins = Fatbins::read(&memory).unwrap();
    let mut places = Vec::new();
    for region in &fatbins.regions {
        let start = region.bytes.as_ptr() as usize - bytes.as_ptr() as usize;
        places.extend((start..start + region.bytes.len()).step_by(7));
    }
    assert_eq!(fatbins.regions.len(), 3);
    let missed: Vec<usize> = places
        .iter()
        .copied()
        .filter(|&at| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            verify::verify(&data, &damaged, &gpus).is_ok()
        })
        .collect();
    assert!(missed.is_empty() && places.len() > 200, "{missed:x?} of {}", places.len());
    // A result for one GPU is none for another.
    assert!(verify::verify(&data, &bytes, &["sm_80".parse().unwrap()]).is_err());
}

/// A small library, and its pruned form.
fn subjects() -> &'static [Vec<u8>; 2] {
    static SUBJECTS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let containers = [
            container(&[entry(2, 75, PLAIN, 300), entry(2, 80, ZSTD, 70_000), entry(1, 80, PLAIN, 200)]),
            container(&[entry(2, 90, SPECIFIC, 100)]),
            container(&[entry(2, 75, ZSTD, 64), entry(2, 86, PLAIN, 70_000)]),
        ];
        let data = fs::read(library(folder.path(), "small.so", &containers, "", &["-Wl,-s"])).unwrap();
        let pruned = pruned(&data, &[75]).unwrap().0;
        [data, pruned]
    })
}

/// Where a change is likely to matter: the headers, the device code's own headers, the wrappers; or anywhere.
fn places(data: &[u8]) -> Vec<std::ops::Range<usize>> {
    let memory = Memory::parse(data).unwrap();
    let fatbins = Fatbins::read(&memory).unwrap();
    let offset = |bytes: &[u8]| bytes.as_ptr() as usize - data.as_ptr() as usize;
    let mut places = vec![0..64, 0..0x800, 0..data.len()];
    for (region, container) in fatbins.containers() {
        places.push(offset(region.bytes)..offset(region.bytes) + 16);
        places.extend(container.entries.iter().map(|entry| offset(entry.bytes)..offset(entry.bytes) + 70));
    }
    let wrappers = data.windows(8).position(|bytes| bytes == [0xb1, 0x43, 0x62, 0x46, 1, 0, 0, 0]).unwrap();
    places.push(wrappers..wrappers + 72);
    places
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_gives_a_verified_library_or_an_error(
        is_pruned in any::<bool>(),
        gpu in prop::sample::select(vec![75u32, 80, 86, 90, 120]),
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop_oneof![Just(0u8), Just(1), Just(2), Just(0xff), Just(0x80), any::<u8>()], 1..5usize),
            0..5,
        ),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        static PLACES: OnceLock<[Vec<std::ops::Range<usize>>; 2]> = OnceLock::new();
        let places = PLACES.get_or_init(|| [places(&subjects()[0]), places(&subjects()[1])]);
        let (original, places) = (&subjects()[usize::from(is_pruned)], &places[usize::from(is_pruned)]);
        let mut data = original.clone();
        for (place, at, value, run) in changes {
            let place = &places[place.index(places.len())];
            let at = place.start + at.index(place.len());
            let end = (at + run).min(data.len());
            data[at..end].fill(value);
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(original.len() + 1));
        }
        // Whatever comes out has been verified.
        let _ = pruned(&data, &[gpu]);
        let _ = list(&data);
    }

    #[test]
    fn noise_is_no_container(noise in prop::collection::vec(any::<u8>(), 0..256), is_headed in any::<bool>()) {
        let mut bytes = if is_headed { vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0, 200, 0, 0, 0, 0, 0, 0, 0] } else { Vec::new() };
        bytes.extend(noise);
        let _ = Container::parse(&bytes);
    }
}
