//! The Open Inference Protocol, version 2, as pure functions over bytes.
//!
//! [`Request::parse`] reads a body, JSON alone or JSON followed by binary tensors; [`Request::bind`] checks it against a
//! model's interface and makes the tensors; [`respond`] writes the answer. Nothing here does input or output, and
//! nothing here panics on any bytes.

mod binary;
pub(crate) mod half;
mod json;
mod predict;
mod request;
mod response;

pub use binary::{decode_strings, encode_strings};
pub use half::{f16_to_f32, f64_to_f16};
pub use json::{read_data, write_data};
pub use predict::{Layout, PredictRequest, respond_predict};
pub use request::{Bound, Request, RequestedOutput};
pub use response::{Reply, respond};

use crate::backend::ShapeSpec;
use crate::tensor::{Datatype, Shape, TensorError};

/// Dimensions that a request's tensor may have at most.
pub const MAX_RANK: usize = 64;

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The JSON is broken, or has a field of the wrong kind.
    #[error("failed to read the request's JSON: {source}")]
    Json {
        /// Where and what.
        source: serde_json::Error,
    },
    /// `Inference-Header-Content-Length` exceeds the body.
    #[error("header `Inference-Header-Content-Length` is {header}, which exceeds the body's {body} bytes")]
    HeaderTooLong {
        /// The header's value.
        header: usize,
        /// Bytes in the body.
        body: usize,
    },
    /// An input's `binary_data_size` exceeds what is left of the body.
    #[error("input `{input}` has a `binary_data_size` of {size}, but {left} bytes of binary data are left")]
    BinaryTooShort {
        /// The input's name.
        input: String,
        /// The size as given.
        size: u64,
        /// Bytes left in the body.
        left: usize,
    },
    /// Binary data that no input claims.
    #[error("{left} bytes of binary data follow those that the inputs name")]
    BinaryTooLong {
        /// Bytes left in the body.
        left: usize,
    },
    /// An input has both `data` and `binary_data_size`.
    #[error("input `{input}` has both `data` and `binary_data_size`, expected one of them")]
    TwiceData {
        /// The input's name.
        input: String,
    },
    /// An input has neither `data` nor `binary_data_size`.
    #[error("input `{input}` has neither `data` nor `binary_data_size`")]
    NoData {
        /// The input's name.
        input: String,
    },
    /// A dimension that is negative.
    #[error("input `{input}` has a dimension of {dimension}, expected 0 or more")]
    NegativeDimension {
        /// The input's name.
        input: String,
        /// The dimension.
        dimension: i64,
    },
    /// More dimensions than any model has.
    #[error("input `{input}` has {rank} dimensions, expected at most {MAX_RANK}")]
    RankTooHigh {
        /// The input's name.
        input: String,
        /// The number of dimensions.
        rank: usize,
    },
    /// An input that the model does not have.
    #[error("input `{input}` is unknown, the model has {}", list(.known))]
    UnknownInput {
        /// The name as given.
        input: String,
        /// The model's inputs.
        known: Vec<String>,
    },
    /// An input that is given twice.
    #[error("input `{input}` is given twice")]
    DuplicateInput {
        /// The input's name.
        input: String,
    },
    /// An input of the model that is not given.
    #[error("input `{input}` ({datatype}, shape {shape}) is missing")]
    MissingInput {
        /// The input's name.
        input: String,
        /// Its element type.
        datatype: Datatype,
        /// What the model declares.
        shape: ShapeSpec,
    },
    /// An input of another type.
    #[error("input `{input}` has datatype {found}, expected {expected}")]
    WrongDatatype {
        /// The input's name.
        input: String,
        /// The type as given.
        found: Datatype,
        /// The model's type.
        expected: Datatype,
    },
    /// An input of another shape.
    #[error("input `{input}` has shape {}, expected {expected}", Shape(.found))]
    WrongShape {
        /// The input's name.
        input: String,
        /// The shape as given.
        found: Vec<usize>,
        /// What the model declares.
        expected: ShapeSpec,
    },
    /// Elements that do not make the tensor.
    #[error("input `{input}`: {source}")]
    Tensor {
        /// The input's name.
        input: String,
        /// What is wrong with them.
        source: TensorError,
    },
    /// Elements in JSON that do not make the tensor.
    #[error("input `{input}`: failed to read `data`: {source}")]
    Data {
        /// The input's name.
        input: String,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A string whose length prefix exceeds its bytes.
    #[error("input `{input}`: string {index} claims {claimed} bytes, but {left} are left")]
    StringTooShort {
        /// The input's name.
        input: String,
        /// The string's place.
        index: usize,
        /// The length prefix; 4 where the prefix itself is cut.
        claimed: usize,
        /// Bytes left.
        left: usize,
    },
    /// A datatype that has no form in JSON.
    #[error("input `{input}` is {datatype}, which travels in binary only: send it with `binary_data_size`")]
    BinaryOnlyInput {
        /// The input's name.
        input: String,
        /// Its element type.
        datatype: Datatype,
    },
    /// An output that the model does not have.
    #[error("output `{output}` is unknown, the model has {}", list(.known))]
    UnknownOutput {
        /// The name as given.
        output: String,
        /// The model's outputs.
        known: Vec<String>,
    },
    /// An output that is asked for twice.
    #[error("output `{output}` is asked for twice")]
    DuplicateOutput {
        /// The output's name.
        output: String,
    },
    /// An output that the protocol cannot carry.
    #[error("output `{output}` is {kind}, which this protocol cannot carry: ask for other outputs by name")]
    UnservedOutput {
        /// The output's name.
        output: String,
        /// Its type in words.
        kind: String,
    },
    /// Not exactly one of rows and columns.
    #[error("request has {found} of `instances` and `inputs`, expected one of them")]
    Layouts {
        /// `both` or `neither`.
        found: &'static str,
    },
    /// Values without names, for a model of several inputs.
    #[error("`{layout}` has values without names, expected each to name its input: {}", list(.known))]
    Unnamed {
        /// `instances` or `inputs`.
        layout: &'static str,
        /// The model's inputs.
        known: Vec<String>,
    },
    /// A row of another kind than the first.
    #[error("row {index} does not name its inputs as the first row does")]
    MixedRows {
        /// The row's place.
        index: usize,
    },
    /// An output that is not made of one part for each row.
    #[error("output `{output}` has shape {}, which has not one part for each row: give the `inputs` as columns", Shape(.shape))]
    NoRows {
        /// The output's name.
        output: String,
        /// Its dimensions.
        shape: Vec<usize>,
    },
    /// A string output that is no text.
    #[error(
        "output `{output}` cannot be written as JSON (string {index} is not UTF-8): only outputs named `…_bytes` are encoded"
    )]
    NotText {
        /// The output's name.
        output: String,
        /// The element's place in row-major order.
        index: usize,
    },
    /// A signature that the model does not have.
    #[error("signature `{signature}` is unknown, the model has {}", list(.known))]
    UnknownSignature {
        /// The signature as given.
        signature: String,
        /// Those that the model has.
        known: Vec<String>,
    },
    /// An extension that this server does not have.
    #[error("parameter `{parameter}` of `{tensor}` is not supported")]
    UnsupportedParameter {
        /// The input's or output's name.
        tensor: String,
        /// The parameter.
        parameter: &'static str,
    },
    /// A value that JSON cannot hold.
    #[error("output `{output}` cannot be written as JSON ({reason}): ask for it with `binary_data` true")]
    NotJson {
        /// The output's name.
        output: String,
        /// What cannot be written.
        reason: NotJson,
    },
}

/// Why an output has no form in JSON.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum NotJson {
    /// A number that JSON has no token for.
    #[error("element {index} is {value}")]
    NotFinite {
        /// The element's place in row-major order.
        index: usize,
        /// NaN or an infinity.
        value: f64,
    },
    /// Bytes that are no text.
    #[error("string {index} is not UTF-8")]
    NotUtf8 {
        /// The element's place in row-major order.
        index: usize,
    },
    /// A datatype without a form in JSON.
    #[error("{datatype} travels in binary only")]
    BinaryOnly {
        /// The element type.
        datatype: Datatype,
    },
}

impl ProtocolError {
    /// Whether the request is sound and asks for what this server does not have.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::UnservedOutput { .. } | Self::UnsupportedParameter { .. })
    }
}

/// Names in words, cut after a few.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests;
