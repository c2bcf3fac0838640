//! Where a graph's nodes run, from the `RunMetadata` of a run that was asked for its graphs.

use crate::backend::Placement;
use crate::tensor_proto::{Reader, TensorProtoError};

type Result<T> = std::result::Result<T, TensorProtoError>;

/// What feeds, fetches and holds a graph together. It runs on the CPU whatever the rest does, and computes nothing.
const PLUMBING: [&str; 15] = [
    "NoOp",
    "Const",
    "HostConst",
    "Identity",
    "IdentityN",
    "Placeholder",
    "VarHandleOp",
    "ReadVariableOp",
    "Shape",
    "_Arg",
    "_Retval",
    "_Send",
    "_Recv",
    "_HostSend",
    "_HostRecv",
];

/// Counts the nodes by the kind of their device, `CPU` or `GPU`, and names those that the CPU runs.
///
/// # Errors
/// Where the bytes are no such message.
pub(super) fn parse(metadata: &[u8]) -> Result<Placement> {
    let mut placement = Placement::default();
    // RunMetadata.partition_graphs, GraphDef.node.
    each(metadata, 3, |graph| each(graph, 1, |node| count(node, &mut placement)))?;
    Ok(placement)
}

fn count(node: &[u8], placement: &mut Placement) -> Result<()> {
    let (mut name, mut operator, mut device) = (String::new(), String::new(), String::new());
    for (field, text) in [(1, &mut name), (2, &mut operator), (4, &mut device)] {
        each(node, field, |bytes| {
            *text = String::from_utf8_lossy(bytes).into_owned();
            Ok(())
        })?;
    }
    // `/job:localhost/replica:0/task:0/device:GPU:0`
    let kind = device.rsplit_once("device:").map_or("", |(_, device)| device).split(':').next().unwrap_or_default();
    if kind.is_empty() || PLUMBING.contains(&operator.as_str()) {
        return Ok(());
    }
    *placement.nodes.entry(kind.to_owned()).or_default() += 1;
    if kind == "CPU" {
        placement.on_cpu.push(format!("{operator} {name}"));
    }
    Ok(())
}

/// Visits each block of a field.
fn each<'a>(message: &'a [u8], wanted: u64, mut visit: impl FnMut(&'a [u8]) -> Result<()>) -> Result<()> {
    let mut reader = Reader::new(message);
    while let Some((field, wire)) = reader.key()? {
        if field == wanted {
            visit(reader.expect(field, wire, 2)?.block()?)?;
        } else {
            reader.skip(field, wire)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(field: u8, content: &[u8]) -> Vec<u8> {
        let length = [(content.len() & 0x7f) as u8 | 0x80, (content.len() >> 7) as u8];
        [&[field << 3 | 2], &length[..], content].concat()
    }

    #[test]
    fn nodes_are_counted_by_device() {
        let node = |name: &str, operator: &str, device: &str| {
            let device = format!("/job:localhost/replica:0/task:0/device:{device}:0");
            block(1, &[block(1, name.as_bytes()), block(2, operator.as_bytes()), block(4, device.as_bytes())].concat())
        };
        let gpu = [node("a", "MatMul", "GPU"), node("b", "_FusedConv2D", "GPU"), node("x", "_Recv", "GPU")].concat();
        let cpu = [node("c", "StringLower", "CPU"), node("d", "Const", "CPU")].concat();
        let found = parse(&[block(1, b"skipped"), block(3, &gpu), block(3, &cpu)].concat()).expect("a message");
        assert_eq!(found.nodes, [("CPU".to_owned(), 1), ("GPU".to_owned(), 2)].into());
        assert_eq!(found.on_cpu, ["StringLower c"]);
        assert!(parse(&[0x1a, 9, 1]).is_err());
    }
}
