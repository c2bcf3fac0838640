//! Which image of an index is for a GPU: container engines take the first for the platform, so that it has to be chosen before.

use super::Architectures;
use super::examine::runs;
use crate::fatbin::Sm;
use crate::image::{Image, label};
use crate::platform::Platform;
use crate::transport::{Content, gpus_of};

/// An image of an index for one platform.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// The image.
    pub image: &'a Image,
    /// The GPUs that it has device code for as its entry or its label says: `sm_75,sm_86`, or `all`.
    pub gpus: Option<String>,
}

impl Entry<'_> {
    /// For how many kinds of GPU it has code, where it has code for all of these.
    fn breadth(&self, gpus: &[Sm]) -> Option<usize> {
        match self.gpus.as_deref()?.parse().ok()? {
            Architectures::All => Some(usize::MAX),
            Architectures::Some(list) => {
                let fits = gpus.iter().all(|gpu| list.iter().any(|code| runs(*gpu, *code)));
                fits.then_some(list.len())
            }
        }
    }
}

/// The images for a platform, in their order. One that lies alone is its own only entry.
#[must_use]
pub fn entries(content: &Content, platform: Platform) -> Vec<Entry<'_>> {
    let listed = content.images_for(platform).into_iter();
    let annotated = |entry: Option<&crate::image::Descriptor>| entry?.annotations.get(label::SM).cloned();
    listed.map(|(image, entry)| Entry { image, gpus: annotated(entry).or_else(|| gpus_of(image)) }).collect()
}

/// Of the images with code for all of some GPUs, of which there is at least one, the one with the least other code; of equal ones that
/// for the newest of the GPUs' predecessors, else the first.
#[must_use]
pub fn best<'a, 'b>(entries: &'a [Entry<'b>], gpus: &[Sm]) -> Option<&'a Entry<'b>> {
    if gpus.is_empty() {
        return None;
    }
    let newest = |entry: &Entry<'_>| match entry.gpus.as_deref()?.parse().ok()? {
        Architectures::All => None,
        Architectures::Some(list) => list.into_iter().filter(|code| gpus.iter().any(|gpu| runs(*gpu, *code))).max(),
    };
    let fitting = entries.iter().filter_map(|entry| Some((entry, entry.breadth(gpus)?)));
    fitting.min_by_key(|(entry, breadth)| (*breadth, std::cmp::Reverse(newest(entry)))).map(|(entry, _)| entry)
}
