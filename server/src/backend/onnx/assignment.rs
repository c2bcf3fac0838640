//! Which provider runs which node, as the runtime recorded it.

use std::ptr;

use ort_sys as sys;

use super::api::{Since, Status, api, check, has};
use super::call::Session;
use super::{gpu, provider};
use crate::backend::{LoadError, Placement, ProviderFault};
use crate::config::{CpuFallback, Provider};
use crate::log::c_text;

/// The session's entry that makes the runtime keep the record.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// The session's entry that makes nodes which would run on the CPU an error. It stands in where there is no record: without
/// either, the runtime runs a model on the CPU where the provider cannot take it, and says so in its log alone.
pub(super) const NO_FALLBACK: &str = "session.disable_cpu_ep_fallback";

/// Nodes that an error names.
const NAMED: usize = 10;

/// Where the nodes of a session run; `None` where the runtime cannot say.
///
/// # Errors
/// Those of the runtime.
pub(super) fn read(session: &Session) -> Result<Option<Placement>, Status> {
    if !has(Since::Assignment) {
        return Ok(None);
    }
    let mut placement = Placement::default();
    let (mut subgraphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session is valid and was made with the record on; the runtime gives as many subgraphs and nodes as it says,
    // all of which live as long as the session, and their texts are C strings.
    unsafe {
        check(((*api()).Session_GetEpGraphAssignmentInfo)(session.as_ptr(), &raw mut subgraphs, &raw mut count))?;
        for index in 0..count {
            let subgraph = *subgraphs.add(index);
            let mut name = ptr::null();
            check(((*api()).EpAssignedSubgraph_GetEpName)(subgraph, &raw mut name))?;
            let (mut nodes, mut size) = (ptr::null(), 0);
            check(((*api()).EpAssignedSubgraph_GetNodes)(subgraph, &raw mut nodes, &raw mut size))?;
            let name = c_text(name);
            if name == provider::name(Provider::Cpu) {
                for node in 0..size {
                    placement.on_cpu.push(node_in_words(*nodes.add(node))?);
                }
            }
            *placement.nodes.entry(name).or_default() += size;
        }
    }
    Ok(Some(placement))
}

/// A node as `Operator` or `domain:Operator`, and its name where it has one.
///
/// # Safety
/// `node` is valid.
unsafe fn node_in_words(node: *const sys::OrtEpAssignedNode) -> Result<String, Status> {
    let (mut name, mut domain, mut operator) = (ptr::null(), ptr::null(), ptr::null());
    // SAFETY: by this function's contract.
    let (name, domain, operator) = unsafe {
        check(((*api()).EpAssignedNode_GetName)(node, &raw mut name))?;
        check(((*api()).EpAssignedNode_GetDomain)(node, &raw mut domain))?;
        check(((*api()).EpAssignedNode_GetOperatorType)(node, &raw mut operator))?;
        (c_text(name), c_text(domain), c_text(operator))
    };
    let operator = if domain.is_empty() || domain == "ai.onnx" { operator } else { format!("{domain}:{operator}") };
    Ok(if name.is_empty() { operator } else { format!("{operator} `{name}`") })
}

/// The operator of a node in words, without its domain.
fn operator(node: &str) -> &str {
    let name = node.split(' ').next().unwrap_or(node);
    name.rsplit(':').next().unwrap_or(name)
}

/// Checks that the provider took what it was asked for.
///
/// # Errors
/// Where it took nothing; where it left something to the CPU and that is refused, for all operators or for those of a list.
pub(super) fn judge(
    placement: &Placement,
    provider: Provider,
    fallback: CpuFallback,
    gpu_operators: &[String],
) -> Result<(), LoadError> {
    let total: usize = placement.nodes.values().sum();
    let taken = placement.nodes.get(provider::name(provider)).copied().unwrap_or(0);
    let is_listed = |node: &&String| gpu_operators.iter().any(|listed| listed == operator(node));
    let took_nothing = taken == 0;
    let refused: Vec<&String> = match fallback {
        CpuFallback::Report if !took_nothing => placement.on_cpu.iter().filter(is_listed).collect(),
        _ => placement.on_cpu.iter().collect(),
    };
    let on_cpu = refused.len();
    if provider == Provider::Cpu || (!took_nothing && on_cpu == 0) {
        return Ok(());
    }
    let named = refused.into_iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = on_cpu.saturating_sub(NAMED);
    let named = if more > 0 { format!("{named} and {more} more") } else { named };
    let message = if took_nothing && on_cpu == 0 {
        format!("it takes none of the {total} nodes")
    } else if took_nothing {
        format!("it takes none of the {total} nodes, and {on_cpu} would run on the CPU: {named}")
    } else if fallback == CpuFallback::Report {
        format!("{on_cpu} of the {total} nodes would run on the CPU, which `gpu_operators` rules out: {named}")
    } else {
        format!("{on_cpu} of the {total} nodes would run on the CPU: {named}")
    };
    let fault = if took_nothing { ProviderFault::Nothing } else { ProviderFault::OnCpu };
    let found = took_nothing.then(gpu::seen).flatten();
    Err(LoadError::Provider { provider: provider.name(), fault, message, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(taken: usize, on_cpu: usize) -> Placement {
        let nodes = [("CUDAExecutionProvider", taken), ("CPUExecutionProvider", on_cpu)];
        Placement {
            nodes: nodes.map(|(name, count)| (name.to_owned(), count)).into(),
            on_cpu: (0..on_cpu).map(|index| format!("Shape `s{index}`")).collect(),
        }
    }

    #[test]
    fn a_provider_has_to_take_something() {
        let judged = |taken, on_cpu, fallback| match judge(&placement(taken, on_cpu), Provider::Cuda, fallback, &[]) {
            Ok(()) => "fine".to_owned(),
            Err(LoadError::Provider { message, fault, .. }) => format!("{fault:?}: {message}"),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(judged(3, 0, CpuFallback::Refuse), "fine");
        assert_eq!(judged(3, 2, CpuFallback::Report), "fine");
        assert_eq!(judged(3, 2, CpuFallback::Refuse), "OnCpu: 2 of the 5 nodes would run on the CPU: Shape `s0`, Shape `s1`");
        assert_eq!(
            judged(0, 1, CpuFallback::Report),
            "Nothing: it takes none of the 1 nodes, and 1 would run on the CPU: Shape `s0`"
        );
        assert!(judged(1, 12, CpuFallback::Refuse).ends_with("Shape `s9` and 2 more"));
        assert!(judge(&placement(0, 4), Provider::Cpu, CpuFallback::Refuse, &[]).is_ok());
    }

    #[test]
    fn operators_that_the_image_has_no_library_for_are_refused_alone() {
        let mut placement = placement(3, 2);
        placement.on_cpu.extend(["com.microsoft:Attention `a`".to_owned(), "ReduceSum".to_owned()]);
        let judged = |operators: &[&str]| {
            let operators: Vec<String> = operators.iter().map(|name| (*name).to_owned()).collect();
            match judge(&placement, Provider::Cuda, CpuFallback::Report, &operators) {
                Err(LoadError::Provider { message, fault: ProviderFault::OnCpu, .. }) => message,
                other => format!("{other:?}"),
            }
        };
        assert_eq!(judged(&["Conv", "Sum"]), "Ok(())");
        let message = judged(&["Attention", "Conv", "ReduceSum"]);
        let start = "2 of the 5 nodes would run on the CPU, which `gpu_operators` rules out";
        assert_eq!(message, format!("{start}: com.microsoft:Attention `a`, ReduceSum"));
    }
}
