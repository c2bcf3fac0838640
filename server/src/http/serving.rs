//! What TensorFlow Serving's REST API says of a model: its state, and its signatures.

use std::collections::BTreeMap;
use std::iter;
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::App;
use super::answer::{self, Answer, Refusal};
use crate::backend::{Backend, ShapeSpec, TensorSpec};
use crate::tensor::Datatype;

/// The state of the one version that there is.
pub(super) fn status(app: &App) -> Answer {
    let state = if app.draining.load(Ordering::Acquire) {
        "UNLOADING"
    } else if app.ready().is_ok() {
        "AVAILABLE"
    } else {
        "LOADING"
    };
    let status = json!({"error_code": "OK", "error_message": ""});
    let versions = json!([{"version": app.model_version, "state": state, "status": status}]);
    answer::json(StatusCode::OK, &json!({"model_version_status": versions}))
}

/// The signatures of the model.
pub(super) fn metadata(app: &App) -> Result<Answer, Refusal> {
    let main: &dyn Backend = &**app.ready()?;
    let signatures: BTreeMap<&str, Value> = iter::once(main)
        .chain(main.others().iter().map(|other| &**other))
        .map(|backend| {
            let interface = backend.interface();
            let signature = json!({
                "inputs": tensors(&interface.inputs),
                "outputs": tensors(&interface.outputs),
                "method_name": "tensorflow/serving/predict",
            });
            (backend.signature(), signature)
        })
        .collect();
    let specification = json!({"name": app.model_name, "signature_name": "", "version": app.model_version});
    let metadata = json!({"signature_def": {"signature_def": signatures}});
    Ok(answer::json(StatusCode::OK, &json!({"model_spec": specification, "metadata": metadata})))
}

fn tensors(specs: &[TensorSpec]) -> BTreeMap<&str, Value> {
    specs
        .iter()
        .map(|spec| {
            // 64-bit numbers are strings in the JSON of protobuf messages.
            let dim: Vec<Value> =
                spec.shape.to_protocol().iter().map(|size| json!({"size": size.to_string(), "name": ""})).collect();
            let shape = json!({"dim": dim, "unknown_rank": spec.shape == ShapeSpec::Unranked});
            (spec.name.as_str(), json!({"dtype": type_name(spec.datatype), "tensor_shape": shape, "name": spec.name}))
        })
        .collect()
}

/// TensorFlow's name of a datatype.
fn type_name(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "DT_BOOL",
        Datatype::Uint8 => "DT_UINT8",
        Datatype::Uint16 => "DT_UINT16",
        Datatype::Uint32 => "DT_UINT32",
        Datatype::Uint64 => "DT_UINT64",
        Datatype::Int8 => "DT_INT8",
        Datatype::Int16 => "DT_INT16",
        Datatype::Int32 => "DT_INT32",
        Datatype::Int64 => "DT_INT64",
        Datatype::Fp16 => "DT_HALF",
        Datatype::Bf16 => "DT_BFLOAT16",
        Datatype::Fp32 => "DT_FLOAT",
        Datatype::Fp64 => "DT_DOUBLE",
        Datatype::Bytes => "DT_STRING",
    }
}
