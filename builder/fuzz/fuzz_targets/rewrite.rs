//! Any bytes are rewritten to a library that loads as they do, or refused.
#![no_main]

use imgbuild::rewrite::{BindRules, Neighbours, Transformation, rewrite};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(mut target) = tempfile::tempfile() else { return };
    let transformations = [Transformation::Strip, Transformation::Bind(BindRules::default())];
    let _ = rewrite(data, &transformations, &Neighbours::default(), &mut target);
});
