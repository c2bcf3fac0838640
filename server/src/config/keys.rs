//! The table of options: one row each, from which the file, the environment and the help are read.

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text, taken from the environment as it is.
    Text,
    /// A whole number of 0 or more.
    Integer,
    /// A list of texts; in the environment a JSON list.
    List,
    /// Texts by name; in the environment a JSON object.
    Map,
}

impl Kind {
    /// The kind in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "a whole number of 0 or more",
            Self::List => "a list of strings",
            Self::Map => "an object of strings",
        }
    }
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the file; upper-cased behind `IMGSERVE_` in the environment.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What it is for, its default in brackets.
    pub help: &'static str,
}

const fn key(name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { name, kind, help }
}

/// Every option.
pub const KEYS: &[Key] = &[
    key("model_name", Kind::Text, "name the model is served by [the model file's stem, or its folder's name for `model.onnx`]"),
    key("model_version", Kind::Text, "version the model is served by [1]"),
    key(
        "model_path",
        Kind::Text,
        "model file, or folder of a SavedModel or of a compiled model [/models/<model_name>/model.onnx, /models/<model_name>]",
    ),
    key("backend", Kind::Text, "runtime: onnxruntime, tensorflow, or compiled for a model that is a library [onnxruntime]"),
    key(
        "library",
        Kind::Text,
        "the runtime's library: a path, or a name for the loader to find [libonnxruntime.so.1, libtensorflow_cc.so.2, libmodel.so in model_path]",
    ),
    key("saved_model_tags", Kind::List, "tags of the graph of a SavedModel [serve]"),
    key("signature", Kind::Text, "signature of a SavedModel that is served [serving_default]"),
    key("xla", Kind::Text, "off, or auto: TensorFlow compiles what it finds worth it [off]"),
    key("xla_cache", Kind::Text, "folder of what XLA compiled before [none]"),
    key("xla_cache_mode", Kind::Text, "read, or write: add to the folder [read]"),
    key("custom_op_libraries", Kind::List, "paths of libraries with custom operators [none]"),
    key("address", Kind::Text, "address to listen on [0.0.0.0]"),
    key("port", Kind::Integer, "port to listen on, 0 for any [8080]"),
    key("threads", Kind::Integer, "threads of one run, 0 for as many as the cgroup and the affinity allow [0]"),
    key("graph_optimization_level", Kind::Text, "all, extended, basic or disable [all]"),
    key("cpu", Kind::Text, "instruction sets that the model was optimised for, as --optimize prints them [any]"),
    key("session_config", Kind::Map, "session configuration entries of the runtime [none]"),
    key("provider", Kind::Text, "what runs the model: cpu, cuda, tensorrt or nv-tensorrt-rtx [cpu]"),
    key("provider_options", Kind::Map, "options of the provider, such as device_id and enable_cudnn, or allow_growth [none]"),
    key("provider_libraries", Kind::List, "what TensorFlow opens for a GPU; each is tried, and named where it is missing [none]"),
    key(
        "cpu_fallback",
        Kind::Text,
        "what becomes of nodes that the provider leaves to the CPU: report (at start), or refuse (to start) [report]",
    ),
    key(
        "gpu_operators",
        Kind::List,
        "operators that the provider alone may run: a node of theirs that is left to the CPU ends the start [none]",
    ),
    key("max_body_bytes", Kind::Integer, "largest request body, before and after decompression [104857600]"),
    key("max_buffered_bytes", Kind::Integer, "request bodies held at a time, all together [4 x max_body_bytes]"),
    key("max_header_bytes", Kind::Integer, "largest request head, 8192 or more [65536]"),
    key("max_connections", Kind::Integer, "open connections [1024]"),
    key("max_concurrency", Kind::Integer, "runs at a time, 0 for as many as `threads` [0]"),
    key("max_queue", Kind::Integer, "requests that wait for a run [256]"),
    key("request_timeout_ms", Kind::Integer, "from a request's head to its answer [60000]"),
    key("idle_timeout_ms", Kind::Integer, "for a request's head to arrive, a connection's idle time included [75000]"),
    key("drain_timeout_ms", Kind::Integer, "for requests in flight to end after SIGTERM [25000]"),
    key("warm_up", Kind::Text, "off, zeros, or a folder with input_0.pb and so on [zeros]"),
    key("warm_up_repeats", Kind::Integer, "runs after the first, of which the median is told [0]"),
    key("log_level", Kind::Text, "error, warn, info or debug [info]"),
    key("log_format", Kind::Text, "json or text [json]"),
    key("health_route", Kind::Text, "another path of readiness [none]"),
    key("predict_route", Kind::Text, "another path of inference [none]"),
];

/// Finds an option by the name it has in the file.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The option whose name is nearest to a misspelt one, if any is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    KEYS.iter()
        .map(|key| (distance(name.as_bytes(), key.name.as_bytes()), key.name))
        .filter(|&(distance, key)| distance <= key.len() / 3 + 1)
        .min()
        .map(|(_, key)| key)
}

/// Single-byte insertions, deletions and changes from one name to another.
fn distance(from: &[u8], to: &[u8]) -> usize {
    // Names are short; a longer one is far from all of them, and need not be compared to its end.
    let from = &from[..from.len().min(64)];
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, byte) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..to.len() {
            let change = diagonal + usize::from(to[column] != *byte);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_find_their_neighbour() {
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(nearest("model_pth"), Some("model_path"));
        assert_eq!(nearest("Port"), Some("port"));
        assert_eq!(nearest("max_body"), None);
        assert_eq!(nearest("max_body_byte"), Some("max_body_bytes"));
        assert_eq!(nearest(&"x".repeat(10_000)), None);
    }
}
