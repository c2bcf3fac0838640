use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::elsewhere::Found;
use super::format::{CONTAINER_HEADER, CodeKind, Entry, Storage};
use super::library::{Content, Fatbins};
use super::plan::{Choice, Plan};
use super::sm::{Architecture, Variant};

/// The device code of a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Length of the library in bytes.
    pub bytes: u64,
    /// Bytes of the device code as it lies in the file.
    pub device_code_bytes: u64,
    /// What there is for each architecture.
    pub architectures: Vec<Share>,
    /// The containers that can be read, by address.
    pub containers: Vec<ContainerListing>,
    /// What pruning would leave as it is.
    pub left_whole: Vec<LeftWhole>,
    /// Containers in sections that pruning does not touch.
    pub elsewhere: Vec<Elsewhere>,
}

/// Device code in a section that pruning does not touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// The section, such as `.data`.
    pub section: String,
    /// Number of containers that can be read.
    pub containers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What there is for each architecture.
    pub architectures: Vec<Share>,
    /// Why pruning leaves it.
    pub reason: String,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerListing {
    /// Its address in memory.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// How many wrappers point at it.
    pub wrappers: usize,
    /// Its entries, in order.
    pub entries: Vec<EntryListing>,
}

/// An entry of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryListing {
    /// What it is.
    pub kind: CodeKind,
    /// What it is for.
    pub architecture: String,
    /// Bytes in the file, header included.
    pub bytes: u64,
    /// How it is stored.
    pub storage: Storage,
    /// Bytes of the code once uncompressed.
    pub uncompressed_bytes: u64,
}

/// All entries of a kind for one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// What they are.
    pub kind: CodeKind,
    /// What they are for.
    pub architecture: String,
    /// How many there are.
    pub entries: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Bytes once uncompressed.
    pub uncompressed_bytes: u64,
}

/// A part of the device code that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftWhole {
    /// Its address in memory.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Why it stays.
    pub reason: String,
}

/// What pruning did to a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// Length of the library in bytes.
    pub bytes_before: u64,
    /// Length of the pruned library in bytes.
    pub bytes_after: u64,
    /// Number of containers that can be read.
    pub containers: u64,
    /// How many of those in `.nv_fatbin` have nothing for any of the GPUs, and share what none of these can run.
    pub containers_without_code: u64,
    /// What stays.
    pub kept: Vec<Share>,
    /// What went.
    pub dropped: Vec<Share>,
    /// What stays because it is damaged, unknown, or used in an unknown way.
    pub left_whole: Vec<LeftWhole>,
}

pub(super) fn listing(bytes: u64, fatbins: &Fatbins<'_>, found: &[Found<'_>]) -> Listing {
    let containers = fatbins.containers().map(|(region, container)| ContainerListing {
        address: region.address,
        bytes: container.bytes.len() as u64,
        wrappers: region.wrappers.len(),
        entries: container.entries.iter().map(entry_listing).collect(),
    });
    let embedded = fatbins.embedded.iter().map(|embedded| ContainerListing {
        address: embedded.address,
        bytes: embedded.container.bytes.len() as u64,
        wrappers: 0,
        entries: embedded.container.entries.iter().map(entry_listing).collect(),
    });
    let elsewhere = fatbins.embedded.iter().map(|embedded| &embedded.container);
    Listing {
        bytes,
        device_code_bytes: fatbins.regions.iter().map(|region| region.bytes.len() as u64).sum::<u64>()
            + fatbins.embedded.iter().map(|embedded| embedded.container.bytes.len() as u64).sum::<u64>(),
        architectures: shares(
            fatbins.containers().map(|(_, container)| container).chain(elsewhere).flat_map(|container| &container.entries),
        ),
        containers: containers.chain(embedded).collect(),
        left_whole: left_whole(fatbins),
        elsewhere: found.iter().map(elsewhere_of).collect(),
    }
}

fn elsewhere_of(found: &Found<'_>) -> Elsewhere {
    let reason = match found.is_read_only {
        true => "nothing that is known uses it",
        false => "the library can write to it",
    };
    Elsewhere {
        section: found.section.to_owned(),
        containers: found.containers.len() as u64,
        bytes: found.containers.iter().map(|container| container.bytes.len() as u64).sum(),
        architectures: shares(found.containers.iter().flat_map(|container| &container.entries)),
        reason: reason.to_owned(),
    }
}

pub(super) fn pruning(bytes_before: u64, bytes_after: u64, fatbins: &Fatbins<'_>, plan: &Plan<'_>) -> PruneReport {
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    for (region, choice) in fatbins.regions.iter().zip(&plan.choices) {
        let container = match &region.content {
            Content::Movable(container) | Content::Whole(Some(container), _) => container,
            Content::Whole(None, _) => continue,
        };
        match choice {
            Choice::Whole => kept.extend(&container.entries),
            Choice::Keep(stays) => {
                let is_kept = |entry: &&Entry<'_>| stays.iter().any(|kept| kept.bytes.as_ptr() == entry.bytes.as_ptr());
                let (stays, goes): (Vec<&Entry<'_>>, Vec<&Entry<'_>>) = container.entries.iter().partition(is_kept);
                kept.extend(stays);
                dropped.extend(goes);
            }
            Choice::Donor => dropped.extend(&container.entries),
        }
    }
    for embedded in &fatbins.embedded {
        let mut at = embedded.address + CONTAINER_HEADER as u64;
        for entry in &embedded.container.entries {
            at += entry.bytes.len() as u64;
            let is_cleared = plan.unused.binary_search_by_key(&at, |range| range.end).is_ok();
            if is_cleared { dropped.push(entry) } else { kept.push(entry) }
        }
    }
    PruneReport {
        bytes_before,
        bytes_after,
        containers: (fatbins.containers().count() + fatbins.embedded.len()) as u64,
        containers_without_code: plan.choices.iter().filter(|choice| **choice == Choice::Donor).count() as u64,
        kept: shares(kept),
        dropped: shares(dropped),
        left_whole: left_whole(fatbins),
    }
}

fn entry_listing(entry: &Entry<'_>) -> EntryListing {
    EntryListing {
        kind: entry.kind,
        architecture: entry.architecture.to_string(),
        bytes: entry.bytes.len() as u64,
        storage: entry.storage,
        uncompressed_bytes: entry.uncompressed,
    }
}

fn shares<'e, 'a: 'e>(entries: impl IntoIterator<Item = &'e Entry<'a>>) -> Vec<Share> {
    let mut sums: BTreeMap<(u32, Variant, CodeKind), (u64, u64, u64)> = BTreeMap::new();
    for entry in entries {
        let key = (entry.architecture.sm, entry.architecture.variant, entry.kind);
        let (count, bytes, uncompressed) = sums.entry(key).or_default();
        *count += 1;
        *bytes += entry.bytes.len() as u64;
        *uncompressed = uncompressed.saturating_add(entry.uncompressed);
    }
    let share = |((sm, variant, kind), (entries, bytes, uncompressed_bytes))| Share {
        kind,
        architecture: Architecture { sm, variant }.to_string(),
        entries,
        bytes,
        uncompressed_bytes,
    };
    sums.into_iter().map(share).collect()
}

fn left_whole(fatbins: &Fatbins<'_>) -> Vec<LeftWhole> {
    let regions = fatbins.regions.iter().filter_map(|region| match &region.content {
        Content::Movable(_) => None,
        Content::Whole(_, because) => {
            Some(LeftWhole { address: region.address, bytes: region.bytes.len() as u64, reason: because.to_string() })
        }
    });
    regions.collect()
}
