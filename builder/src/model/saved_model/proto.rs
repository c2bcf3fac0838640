//! Declares the small parts of TensorFlow's protobuf messages that are decoded whole; the graph is streamed instead.
//!
//! What is not declared is skipped by its length and never read, tensors of weights above all.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetaInfoDef {
    #[prost(string, repeated, tag = "4")]
    pub tags: Vec<String>,
    #[prost(string, tag = "5")]
    pub tensorflow_version: String,
}

/// An entry of the map from a signature's key to the signature.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SignatureEntry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<SignatureDef>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignatureDef {
    #[prost(btree_map = "string, message", tag = "1")]
    pub inputs: std::collections::BTreeMap<String, TensorInfo>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub outputs: std::collections::BTreeMap<String, TensorInfo>,
    #[prost(string, tag = "3")]
    pub method_name: String,
}

/// Where a signature's tensor is found; on the wire the encodings are one `oneof`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "2")]
    pub dtype: i32,
    #[prost(message, optional, tag = "3")]
    pub tensor_shape: Option<TensorShape>,
    #[prost(message, optional, tag = "4")]
    pub coo_sparse: Option<Skipped>,
    #[prost(message, optional, tag = "5")]
    pub composite_tensor: Option<Skipped>,
}

/// A message of which only the presence matters.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Skipped {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<TensorDimension>,
    #[prost(bool, tag = "3")]
    pub unknown_rank: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct TensorDimension {
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// An entry of the map from an attribute's name to its value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeEntry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AttributeValue>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct AttributeValue {
    #[prost(bool, optional, tag = "5")]
    pub b: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AssetFileDef {
    #[prost(string, tag = "2")]
    pub filename: String,
}

/// The first entry of a checkpoint's index.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct BundleHeader {
    #[prost(int32, tag = "1")]
    pub num_shards: i32,
    #[prost(int32, tag = "2")]
    pub endianness: i32,
}

/// Where a checkpoint's tensor lies.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BundleEntry {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(int32, tag = "3")]
    pub shard_id: i32,
    #[prost(int64, tag = "4")]
    pub offset: i64,
    #[prost(int64, tag = "5")]
    pub size: i64,
    #[prost(fixed32, tag = "6")]
    pub checksum: u32,
}
