//! Decides whether a runtime can execute a model, the way the runtime itself decides it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::error::ModelError;
use super::onnx::{self, FunctionKey, ONNX_DOMAIN, OnnxModel, OperatorId};
use super::operators::{Definition, Lookup, OperatorTable};
use super::problem::OperatorProblem;
use super::proto::{FunctionProto, GraphProto, NodeProto, text};
use super::value::{DataType, ValueType};

/// What a check found of a model that the runtime can execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorCheck {
    /// The runtime and its version.
    pub runtime: String,
    /// The runtime's operators that the model needs, and how many nodes use each.
    pub operators: BTreeMap<OperatorId, u64>,
    /// The operators that a custom library must bring.
    pub custom: BTreeMap<OperatorId, u64>,
}

/// Decides whether a runtime can execute a model.
///
/// Operators of `custom_domains` are left to the libraries that the recipe names. The rules are those
/// of ONNX Runtime: the runtime's own definitions come before the model's functions, the bodies of
/// functions are resolved against the opsets of the model, and functions that nothing calls do not
/// matter. Types are compared where the model tells them; a type that is not known refuses nothing.
///
/// # Errors
///
/// If the IR version or an opset is too new, a domain is unknown or not imported, a function is
/// recursive, or operators cannot be executed ([`ModelError::Operators`] lists all of them).
pub fn check_operators(
    model: &OnnxModel,
    table: &OperatorTable,
    custom_domains: &[impl AsRef<str>],
) -> Result<OperatorCheck, ModelError> {
    let custom: BTreeSet<&str> = custom_domains.iter().map(AsRef::as_ref).collect();
    let runtime = table.to_string();
    if model.ir_version > table.max_ir_version {
        return Err(ModelError::IrVersionTooNew {
            path: model.path.clone(),
            found: model.ir_version,
            runtime,
            highest: table.max_ir_version,
        });
    }
    check_opsets(model, table, &custom)?;
    let mut checker = Checker::new(model, table, custom);
    if let Some(graph) = &model.proto.graph {
        checker.graph(graph, &HashMap::new());
    }
    checker.called_functions()?;
    checker.finish()
}

/// Counts the nodes that a provider has no kernel for, by operator. `table` lists the provider's kernels; operators with a body are
/// left out, since what runs them is the nodes of the body.
#[must_use]
pub fn nodes_without_kernel(model: &OnnxModel, table: &OperatorTable) -> BTreeMap<OperatorId, u64> {
    let mut checker = Checker::new(model, table, BTreeSet::new());
    if let Some(graph) = &model.proto.graph {
        checker.graph(graph, &HashMap::new());
    }
    // The model was checked against the runtime before: its functions are sound.
    let _ = checker.called_functions();
    checker.unserved
}

impl<'a> Checker<'a> {
    fn new(model: &'a OnnxModel, table: &'a OperatorTable, custom: BTreeSet<&'a str>) -> Self {
        let functions: HashMap<FunctionKey, &FunctionProto> =
            model.proto.functions.iter().map(|function| (onnx::function_key(function), function)).collect();
        let mut opsets: BTreeMap<&str, i64> =
            table.domains.iter().map(|(domain, content)| (domain.as_str(), content.max_opset)).collect();
        opsets.extend(model.opsets.iter().map(|(domain, &version)| (domain.as_str(), version)));

        Self {
            model,
            table,
            custom,
            functions,
            opsets,
            user: "the graph".to_owned(),
            calls: BTreeMap::new(),
            found: OperatorCheck { runtime: table.to_string(), operators: BTreeMap::new(), custom: BTreeMap::new() },
            unknown_domains: BTreeMap::new(),
            not_imported: None,
            duplicate_node: None,
            problems: Vec::new(),
            unserved: BTreeMap::new(),
        }
    }
}

/// Every import counts, also those of functions and those that a later one overrides.
fn check_opsets(model: &OnnxModel, table: &OperatorTable, custom: &BTreeSet<&str>) -> Result<(), ModelError> {
    let proto = &model.proto;
    let imports = proto.functions.iter().flat_map(|function| &function.opset_import).chain(&proto.opset_import);
    for import in imports {
        let domain = onnx::domain_name(&import.domain);
        if let Some(known) = table.domains.get(&domain)
            && import.version > known.max_opset
            && !custom.contains(domain.as_str())
        {
            return Err(ModelError::OpsetTooNew {
                path: model.path.clone(),
                domain,
                found: import.version,
                runtime: table.to_string(),
                highest: known.max_opset,
            });
        }
    }
    for function in &proto.functions {
        let imported: BTreeSet<String> = function.opset_import.iter().map(|import| onnx::domain_name(&import.domain)).collect();
        if let Some(node) = function.node.iter().find(|node| !imported.contains(&onnx::domain_name(&node.domain))) {
            return Err(ModelError::DomainNotImported {
                path: model.path.clone(),
                user: format!("function {}:{}", onnx::domain_name(&function.domain), text(&function.name)),
                domain: onnx::domain_name(&node.domain),
                operator: text(&node.op_type),
            });
        }
    }
    Ok(())
}

/// Types of values by name, in the form in which kernels list them.
type Types = HashMap<Vec<u8>, String>;

struct Checker<'a> {
    model: &'a OnnxModel,
    table: &'a OperatorTable,
    custom: BTreeSet<&'a str>,
    functions: HashMap<FunctionKey, &'a FunctionProto>,
    opsets: BTreeMap<&'a str, i64>,
    /// Whose nodes are being visited, for errors.
    user: String,
    /// The functions that were called, and which functions each of them calls.
    calls: BTreeMap<FunctionKey, BTreeSet<FunctionKey>>,
    found: OperatorCheck,
    unknown_domains: BTreeMap<String, BTreeSet<String>>,
    not_imported: Option<(String, OperatorId)>,
    duplicate_node: Option<String>,
    problems: Vec<OperatorProblem>,
    /// Nodes that have a problem, by operator.
    unserved: BTreeMap<OperatorId, u64>,
}

impl Checker<'_> {
    /// Visits the functions that the graph calls, and those that they call.
    fn called_functions(&mut self) -> Result<(), ModelError> {
        let mut pending: Vec<FunctionKey> = self.calls.keys().cloned().collect();
        let mut visited = BTreeSet::new();
        while let Some(key) = pending.pop() {
            let Some(&function) = self.functions.get(&key) else {
                continue;
            };
            if !visited.insert(key.clone()) {
                continue;
            }
            self.user = format!("function {}:{}", key.0, text(&key.1));
            let before = std::mem::take(&mut self.calls);
            self.nodes(&function.node, Types::new());
            let callees: BTreeSet<FunctionKey> = std::mem::replace(&mut self.calls, before).into_keys().collect();
            pending.extend(callees.iter().cloned());
            self.calls.insert(key, callees);
        }
        match self.recursive_function() {
            Some(key) => Err(ModelError::RecursiveFunction {
                path: self.model.path.clone(),
                function: format!("{}:{}", key.0, text(&key.1)),
            }),
            None => Ok(()),
        }
    }

    /// Returns a function on a cycle of calls: one that is left when those without calls are taken away.
    fn recursive_function(&self) -> Option<FunctionKey> {
        let mut left = self.calls.clone();
        loop {
            let done: Vec<FunctionKey> = left
                .iter()
                .filter(|(_, callees)| !callees.iter().any(|callee| left.contains_key(callee)))
                .map(|(key, _)| key.clone())
                .collect();
            if done.is_empty() {
                return left.into_keys().next();
            }
            for key in done {
                left.remove(&key);
            }
        }
    }

    fn finish(self) -> Result<OperatorCheck, ModelError> {
        let path = self.model.path.clone();
        if let Some((domain, operators)) = self.unknown_domains.into_iter().next() {
            let operators = operators.into_iter().collect();
            return Err(ModelError::UnknownDomain { path, domain, operators, runtime: self.table.to_string() });
        }
        if let Some((user, operator)) = self.not_imported {
            let OperatorId { domain, name } = operator;
            return Err(ModelError::DomainNotImported { path, user, domain, operator: name });
        }
        if let Some(node) = self.duplicate_node {
            return Err(ModelError::DuplicateNode { path, node });
        }
        if !self.problems.is_empty() {
            let runtime = format!("{} ({})", self.table, self.table.provider);
            return Err(ModelError::Operators { path, runtime, problems: self.problems });
        }
        Ok(self.found)
    }

    fn graph(&mut self, graph: &GraphProto, outer: &Types) {
        let mut names = HashSet::new();
        for node in &graph.node {
            // The runtime turns constants into initializers before it looks at names.
            let constant = node.op_type == b"Constant" && onnx::domain_name(&node.domain) == ONNX_DOMAIN;
            if !node.name.is_empty() && !constant && !names.insert(node.name.as_slice()) {
                self.duplicate_node.get_or_insert_with(|| text(&node.name));
            }
        }
        let mut types = outer.clone();
        for tensor in &graph.initializer {
            let datatype = DataType::from_number(tensor.data_type);
            if datatype.name().is_some() {
                types.insert(tensor.name.clone(), format!("tensor({datatype})"));
            }
        }
        for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            let declared = ValueType::from_proto(value.r#type.as_ref());
            if declared.is_known() {
                types.insert(value.name.clone(), declared.to_string());
            } else if outer.contains_key(&value.name) {
                // A value of the same name outside must not lend its type.
                types.remove(&value.name);
            }
        }
        self.nodes(&graph.node, types);
    }

    fn nodes(&mut self, nodes: &[NodeProto], mut types: Types) {
        for node in nodes {
            self.node(node, &mut types);
            for graph in onnx::subgraphs(node) {
                self.graph(graph, &types);
            }
        }
    }

    fn node(&mut self, node: &NodeProto, types: &mut Types) {
        let operator = onnx::operator_of(node);
        if self.custom.contains(operator.domain.as_str()) {
            *self.found.custom.entry(operator).or_default() += 1;
            return;
        }
        let known = self.table.domains.get(&operator.domain);
        let Some(&opset) = self.opsets.get(operator.domain.as_str()) else {
            // Neither the model nor the runtime has the domain; a function without import is the model's fault.
            if self.functions.contains_key(&onnx::call_key(node)) {
                self.not_imported.get_or_insert((self.user.clone(), operator));
            } else {
                self.unknown_domains.entry(operator.domain).or_default().insert(operator.name);
            }
            return;
        };
        let lookup = self.table.lookup(&operator.domain, &operator.name, opset);
        if let Lookup::Defined { since, definition } = lookup {
            *self.found.operators.entry(operator.clone()).or_default() += 1;
            self.definition(node, operator, opset, since, definition, types);
            return;
        }
        if known.is_none_or(|domain| domain.functions) && self.functions.contains_key(&onnx::call_key(node)) {
            self.calls.entry(onnx::call_key(node)).or_default();
            return;
        }
        let node = node_name(node);
        match (lookup, known) {
            (_, None) => {
                self.unknown_domains.entry(operator.domain).or_default().insert(operator.name);
            }
            (Lookup::Later { since }, _) => self.problem(OperatorProblem::NotYet { operator, node, opset, since }),
            _ => self.problem(OperatorProblem::Unknown { operator, node }),
        }
    }

    fn definition(
        &mut self,
        node: &NodeProto,
        operator: OperatorId,
        opset: i64,
        since: i64,
        definition: &Definition,
        types: &mut Types,
    ) {
        if definition.deprecated {
            return self.problem(OperatorProblem::Removed { operator, node: node_name(node), opset, since });
        }
        if !definition.is_served(opset) {
            let served_from = self.table.served_from(&operator.domain, &operator.name, since);
            return self.problem(OperatorProblem::NoKernel { operator, node: node_name(node), since, served_from });
        }
        learn_from_attributes(node, &operator, types);
        if definition.function {
            return;
        }
        let mut labels: BTreeMap<&str, String> = BTreeMap::new();
        for (names, parameters) in [(&node.input, &definition.inputs), (&node.output, &definition.outputs)] {
            for (position, name) in names.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                if let (Some(label), Some(known)) = (Definition::label(parameters, position), types.get(name)) {
                    labels.entry(label).or_insert_with(|| known.clone());
                }
            }
        }
        let view: BTreeMap<&str, &str> = labels.iter().map(|(&label, name)| (label, name.as_str())).collect();
        if !self.table.has_kernel(definition, &view) {
            let mut types: Vec<String> = labels.into_values().collect();
            types.sort();
            types.dedup();
            return self.problem(OperatorProblem::NoKernelForTypes { operator, node: node_name(node), since, types });
        }
        for (position, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let Some(label) = Definition::label(&definition.outputs, position) else {
                continue;
            };
            let learned = match labels.get(label) {
                Some(learned) => learned,
                None if label.contains('(') => label,
                None => continue,
            };
            types.entry(name.clone()).or_insert_with(|| learned.to_owned());
        }
    }

    /// Notes a problem unless the same one was noted for another node.
    fn problem(&mut self, problem: OperatorProblem) {
        *self.unserved.entry(problem.operator().clone()).or_default() += 1;
        if !self.problems.iter().any(|known| known.is_like(&problem)) {
            self.problems.push(problem);
        }
    }
}

fn node_name(node: &NodeProto) -> String {
    if !node.name.is_empty() {
        return format!("`{}`", text(&node.name));
    }
    match node.output.iter().find(|name| !name.is_empty()) {
        Some(output) => format!("of output `{}`", text(output)),
        None => "without a name".to_owned(),
    }
}

/// Takes the type of a node's output from its attributes, for the operators where it stands there.
fn learn_from_attributes(node: &NodeProto, operator: &OperatorId, types: &mut Types) {
    if operator.domain != ONNX_DOMAIN {
        return;
    }
    let Some(output) = node.output.first() else {
        return;
    };
    let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name.as_bytes());
    let datatype = match operator.name.as_str() {
        "Cast" => attribute("to").and_then(|attribute| i32::try_from(attribute.i).ok()),
        "Constant" | "ConstantOfShape" => {
            attribute("value").and_then(|attribute| attribute.t.as_ref()).map(|tensor| tensor.data_type)
        }
        _ => None,
    };
    let datatype = datatype.map(DataType::from_number).filter(|datatype| datatype.name().is_some());
    if let Some(datatype) = datatype {
        types.entry(output.clone()).or_insert_with(|| format!("tensor({datatype})"));
    }
}
