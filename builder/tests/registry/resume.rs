//! After a broken connection only what was lost is sent again: counted on the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imgbuild::digest::Digest;
use imgbuild::registry::{Chunking, Placed, PushOptions, Pushed};

use super::docker::{self, Registry};
use super::images::{Made, client, digest_of, hasty, image, reference, sparse_image};
use super::mini::{self, Mini};
use super::proxy::{Fault, Options, Plan, Proxy};

const CHUNK: u64 = 16 << 20;
const LAYER: u64 = 256 << 20;

/// Cuts the connection once, when so many bytes of the layer went through.
fn cut_at(place: u64) -> Plan {
    let through = Arc::new(AtomicU64::new(0));
    Box::new(move |head, _| {
        if head.method() != "PATCH" {
            return None;
        }
        let before = through.fetch_add(head.length(), Ordering::SeqCst);
        (before <= place && place < before + head.length()).then(|| Fault::CutRequest(place - before))
    })
}

fn push(proxy: &Proxy, made: &Made) -> Pushed {
    let options = PushOptions { chunking: Chunking::Of(CHUNK), parallel: 1, ..PushOptions::default() };
    client(hasty()).push(&made.image, &reference(format!("{}/a/b:1", proxy.host())), &options).unwrap()
}

/// What was sent beyond the image itself: as the proxy received it, and as it left the client, part of which the network lost.
fn resent(proxy: &Proxy, made: &Made, pushed: &Pushed) -> (u64, u64) {
    let blobs = made.image.parsed.config.size + made.image.parsed.layers.iter().map(|layer| layer.size).sum::<u64>();
    let once = blobs + 2 * made.image.manifest.len() as u64;
    (proxy.seen.body_bytes.load(Ordering::SeqCst) - once, pushed.bytes_sent - once)
}

fn layer(made: &Made) -> Digest {
    made.image.parsed.layers[0].digest
}

#[test]
fn a_cut_at_nine_tenths_costs_at_most_what_the_registry_had_not_stored() {
    cut_at_nine_tenths_of(LAYER);
}

#[test]
fn a_cut_at_nine_tenths_of_a_gigabyte_costs_at_most_a_chunk() {
    cut_at_nine_tenths_of(1 << 30);
}

fn cut_at_nine_tenths_of(layer_size: u64) {
    let made = sparse_image(layer_size);
    let registry = Mini::start(mini::Options::default());
    let proxy = Proxy::start(&registry.host(), Options::default(), cut_at(layer_size * 9 / 10));
    let pushed = push(&proxy, &made);
    assert_eq!(pushed.blobs[1].placed, Placed::Resumed, "{pushed:?}");
    assert_eq!(proxy.seen.faults.lock().unwrap().len(), 1);
    assert_eq!(digest_of(&registry.blob(&layer(&made))), layer(&made));
    // What the registry got of the cut chunk is not sent again.
    let (received, sent) = resent(&proxy, &made, &pushed);
    eprintln!("after a cut at 90 % of {layer_size} bytes: {received} bytes received twice, {sent} sent twice");
    assert!(received < 1 << 20 && sent <= CHUNK, "{received} {sent}");
}

#[test]
fn behind_a_proxy_that_buffers_a_cut_costs_at_most_one_chunk_with_debians_registry() {
    let Some(registry) = Registry::start(&docker::Options::default()) else { return };
    let made = sparse_image(LAYER);
    let proxy = Proxy::start(&registry.host, Options { buffering: true, ..Options::default() }, cut_at(LAYER * 9 / 10));
    let pushed = push(&proxy, &made);
    assert_eq!(pushed.blobs[1].placed, Placed::Resumed, "{pushed:?}");
    assert_eq!(digest_of(&registry.stored(&layer(&made)).unwrap()), layer(&made));
    let (received, sent) = resent(&proxy, &made, &pushed);
    eprintln!("after a cut at 90 % of {LAYER} bytes: {received} bytes received twice, {sent} sent twice");
    assert!(received > 0 && received <= sent && sent <= CHUNK, "{received} {sent}");
}

#[test]
fn a_registry_that_forgets_a_cut_upload_gets_it_anew_and_right() {
    // Debian's registry takes no request for an upload whose last chunk was cut.
    let Some(registry) = Registry::start(&docker::Options::default()) else { return };
    let made = image(30, &[3_000_000]);
    let size = made.image.parsed.layers[0].size;
    let proxy = Proxy::start(&registry.host, Options::default(), cut_at(size / 2));
    let options = PushOptions { chunking: Chunking::Of(1 << 20), ..PushOptions::default() };
    let pushed = client(hasty()).push(&made.image, &reference(format!("{}/a/b:1", proxy.host())), &options).unwrap();
    assert_eq!(proxy.seen.faults.lock().unwrap().len(), 1);
    assert_eq!(pushed.blobs[1].placed, Placed::Uploaded, "{pushed:?}");
    assert!(resent(&proxy, &made, &pushed).1 <= size * 8 / 10);
    assert_eq!(digest_of(&registry.stored(&layer(&made)).unwrap()), layer(&made));
}
