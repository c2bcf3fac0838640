//! What keeps a runtime from executing an operator.

use serde::Serialize;

use super::onnx::OperatorId;

/// Why a runtime cannot execute one operator of a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OperatorProblem {
    /// The domain is known, the operator is not.
    #[error("operator {operator} (node {node}) is not known")]
    Unknown {
        /// The operator.
        operator: OperatorId,
        /// The first node that uses it.
        node: String,
    },
    /// The operator came into the domain later.
    #[error("operator {operator} (node {node}) exists from opset {since} on, the model imports {opset}")]
    NotYet {
        /// The operator.
        operator: OperatorId,
        /// The first node that uses it.
        node: String,
        /// The opset that the model imports.
        opset: i64,
        /// The opset that introduced the operator.
        since: i64,
    },
    /// The operator was taken out of the domain.
    #[error("operator {operator} (node {node}) was removed in opset {since}, the model imports {opset}")]
    Removed {
        /// The operator.
        operator: OperatorId,
        /// The first node that uses it.
        node: String,
        /// The opset that the model imports.
        opset: i64,
        /// The opset that removed it.
        since: i64,
    },
    /// The runtime knows the operator but has nothing to execute it with.
    #[error("operator {operator} (node {node}) of opset {since} has no implementation")]
    NoKernel {
        /// The operator.
        operator: OperatorId,
        /// The first node that uses it.
        node: String,
        /// The opset that defined the version in question.
        since: i64,
        /// The first later opset whose version of the operator is implemented.
        served_from: Option<i64>,
    },
    /// The runtime implements the operator, but not for these types.
    #[error("operator {operator} (node {node}) of opset {since} has no implementation for {}", types.join(", "))]
    NoKernelForTypes {
        /// The operator.
        operator: OperatorId,
        /// The first node that uses it so.
        node: String,
        /// The opset that defined the version in question.
        since: i64,
        /// The types of the node's inputs and outputs that decide it.
        types: Vec<String>,
    },
}

impl OperatorProblem {
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            OperatorProblem::Unknown { operator, .. } => {
                format!("if a library implements {operator}, name it in the recipe's `custom_op_libraries`")
            }
            OperatorProblem::NotYet { since, operator, .. } => {
                format!("export the model for opset {since} of {} or later", operator.domain)
            }
            OperatorProblem::Removed { since, operator, .. } => {
                format!("export the model for an opset of {} before {since}, or without {}", operator.domain, operator.name)
            }
            OperatorProblem::NoKernel { served_from: Some(opset), operator, .. } => {
                format!("export the model for opset {opset} of {} or later, which has one", operator.domain)
            }
            OperatorProblem::NoKernel { operator, .. } => {
                format!("export the model without {}, or for another opset", operator.name)
            }
            OperatorProblem::NoKernelForTypes { .. } => "export the model in float32, or cast around the operator".to_owned(),
        })
    }

    /// The operator that it is about.
    pub(crate) fn operator(&self) -> &OperatorId {
        match self {
            OperatorProblem::Unknown { operator, .. }
            | OperatorProblem::NotYet { operator, .. }
            | OperatorProblem::Removed { operator, .. }
            | OperatorProblem::NoKernel { operator, .. }
            | OperatorProblem::NoKernelForTypes { operator, .. } => operator,
        }
    }

    /// Whether another problem differs in the node only.
    pub(crate) fn is_like(&self, other: &OperatorProblem) -> bool {
        use OperatorProblem::{NoKernel, NoKernelForTypes, NotYet, Removed, Unknown};
        match (self, other) {
            (Unknown { operator: a, .. }, Unknown { operator: b, .. })
            | (NotYet { operator: a, .. }, NotYet { operator: b, .. })
            | (Removed { operator: a, .. }, Removed { operator: b, .. })
            | (NoKernel { operator: a, .. }, NoKernel { operator: b, .. }) => a == b,
            (NoKernelForTypes { operator: a, types: s, .. }, NoKernelForTypes { operator: b, types: t, .. }) => a == b && s == t,
            _ => false,
        }
    }
}
