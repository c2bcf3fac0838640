//! No bytes crash it.

use proptest::prelude::*;

use super::*;
use crate::model::wire;
use crate::model::{OnnxModel, identify};

fn survive(bytes: &[u8], table: &OperatorTable) {
    let _ = identify(bytes);
    wire::locate(bytes);
    if let Ok(model) = OnnxModel::parse(bytes, Path::new("fuzzed.onnx")) {
        let _ = check_operators(&model, table, &[] as &[&str]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_models_do_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        thread_local! {
            static TABLE: OperatorTable = table();
        }
        let mut content = rich_model().encode_to_vec();
        for (index, byte) in changes {
            let at = index.index(content.len());
            content[at] = byte;
        }
        TABLE.with(|table| survive(&content, table));
        content.truncate(cut.index(content.len()));
        TABLE.with(|table| survive(&content, table));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = identify(&bytes);
        wire::locate(&bytes);
        let _ = OnnxModel::parse(&bytes, Path::new("fuzzed.onnx"));
    }
}
