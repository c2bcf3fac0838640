//! What a runtime cannot execute; `tests/tools/model_judge.py` asks the runtime itself the same.

use super::*;
use crate::model::{OperatorId, OperatorProblem};

fn problems(model: &ModelProto) -> Vec<OperatorProblem> {
    match check(model) {
        Err(ModelError::Operators { problems, .. }) => problems,
        other => panic!("expected unsupported operators, got {other:?}"),
    }
}

#[test]
fn versions_that_are_too_new_are_refused_with_both_numbers() {
    let mut proto = model(graph(vec![relu()]));
    proto.ir_version = Some(15);
    assert!(matches!(check(&proto), Err(ModelError::IrVersionTooNew { found: 15, highest: 14, .. })));
    proto.ir_version = Some(14);
    check(&proto).expect("the newest is read");
    proto.opset_import = vec![opset("", 29)];
    let error = check(&proto).expect_err("too new");
    assert_eq!(
        error.to_string().split_once("imports ").map(|(_, rest)| rest),
        Some("opset 29 of ai.onnx, onnxruntime 1.32.0 knows up to 28")
    );
    proto.opset_import = vec![opset("", 28)];
    check(&proto).expect("the newest is known");
    proto.opset_import = vec![opset("", 13), opset("com.microsoft", 2)];
    assert!(matches!(check(&proto), Err(ModelError::OpsetTooNew { domain, .. }) if domain == "com.microsoft"));
    proto.opset_import = vec![opset("", 13), opset("acme", 1_000_000)];
    check(&proto).expect("an unknown domain that is not used does not matter");
}

#[test]
fn unknown_domains_name_their_operators_and_give_way_to_custom_libraries() {
    let mut proto = model(graph(vec![node("acme", "B", &["x"], &["t"]), node("acme", "A", &["t"], &["y"]), relu()]));
    for imports in [vec![opset("", 13)], vec![opset("", 13), opset("acme", 1)]] {
        proto.opset_import = imports;
        let error = check(&proto).expect_err("unknown domain");
        assert!(
            matches!(&error, ModelError::UnknownDomain { domain, operators, .. }
            if domain == "acme" && operators == &["A", "B"]),
            "{error}"
        );
        assert!(error.hint().expect("a hint").contains("custom_op_libraries"));
    }
    let opened = open_model(&proto).expect("it opens");
    let found = check_operators(opened.onnx().expect("ONNX"), &table(), &["acme"]).expect("a library brings them");
    assert_eq!(found.custom.len(), 2);
    assert_eq!(found.operators.get(&OperatorId::new("", "Relu")), Some(&1));
}

#[test]
fn operators_are_looked_up_at_the_models_opset() {
    let at = |version, operator: &str| {
        let mut proto = model(graph(vec![node("", operator, &["x"], &["y"])]));
        proto.opset_import = vec![opset("", version)];
        proto
    };
    let only = |proto: &ModelProto| problems(proto).remove(0);
    assert!(matches!(only(&at(13, "Frobnicate")), OperatorProblem::Unknown { .. }));
    assert!(matches!(only(&at(13, "HardSwish")), OperatorProblem::NotYet { opset: 13, since: 14, .. }));
    check(&at(14, "HardSwish")).expect("there it is");
    assert!(matches!(only(&at(10, "Upsample")), OperatorProblem::Removed { since: 10, .. }));
    let no_kernel = only(&at(5, "Relu"));
    assert!(matches!(no_kernel, OperatorProblem::NoKernel { since: 1, served_from: Some(6), .. }), "{no_kernel:?}");
    assert_eq!(no_kernel.to_string(), "operator ai.onnx:Relu (node of output `y`) of opset 1 has no implementation");
    check(&at(24, "Swish")).expect("its body is inlined");
    assert!(matches!(only(&at(25, "Swish")), OperatorProblem::NoKernel { .. }), "its body ends with opset 24");
}

#[test]
fn all_problems_are_listed_once() {
    let frob = |output: &str| node("", "Frob", &["x"], &[output]);
    let proto = model(graph(vec![frob("a"), with_branches(frob("b"), node("", "Grob", &["x"], &["c"])), relu()]));
    let names: Vec<String> = problems(&proto).iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["operator ai.onnx:Frob (node of output `a`) is not known", "operator ai.onnx:Grob (node of output `c`) is not known",]
    );
}

#[test]
fn types_decide_where_they_are_known() {
    let of = |elem_type| {
        let mut graph = graph(vec![node("", "Max", &["x", "x"], &["m"]), node("", "Identity", &["m"], &["y"])]);
        graph.input = vec![value("x", elem_type)];
        graph.output = vec![value("y", elem_type)];
        model(graph)
    };
    check(&of(FLOAT)).expect("a kernel");
    check(&of(10)).expect("float16 is cast");
    let refused = problems(&of(INT16)).remove(0);
    assert!(matches!(&refused, OperatorProblem::NoKernelForTypes { types, .. } if types == &["tensor(int16)"]), "{refused:?}");
    let mut unknown = of(INT16);
    if let Some(graph) = &mut unknown.graph {
        graph.input[0].r#type = None;
        graph.output[0].r#type = None;
    }
    check(&unknown).expect("what is not known refuses nothing");

    // The type comes from a cast, through an operator that keeps it.
    let to = AttributeProto { name: b"to".to_vec(), i: i64::from(INT16), ..AttributeProto::default() };
    let cast = NodeProto { attribute: vec![to], ..node("", "Cast", &["x"], &["i"]) };
    let nodes = vec![cast, node("", "Identity", &["i"], &["j"]), node("", "Max", &["j"], &["k"]), relu()];
    assert!(matches!(problems(&model(graph(nodes))).remove(0), OperatorProblem::NoKernelForTypes { .. }));
}

#[test]
fn functions_follow_the_runtimes_rules() {
    let calling = |functions: Vec<FunctionProto>| {
        let mut proto = model(graph(vec![node("own", "F", &["x"], &["y"])]));
        proto.opset_import.push(opset("own", 1));
        proto.functions = functions;
        proto
    };
    let f = |nodes, opsets| function("own", "F", nodes, opsets);
    let own = || vec![opset("", 13), opset("own", 1)];
    check(&calling(vec![f(vec![relu()], own())])).expect("a function");
    let newer = calling(vec![f(vec![node("", "HardSwish", &["x"], &["y"])], vec![opset("", 14)])]);
    assert!(matches!(problems(&newer)[0], OperatorProblem::NotYet { .. }), "the model's opset holds");
    let too_new = calling(vec![f(vec![relu()], vec![opset("", 99)])]);
    assert!(matches!(check(&too_new), Err(ModelError::OpsetTooNew { found: 99, .. })));
    let no_import = calling(vec![f(vec![relu()], vec![])]);
    assert!(matches!(check(&no_import), Err(ModelError::DomainNotImported { user, .. }) if user == "function own:F"));
    let itself = calling(vec![f(vec![node("own", "F", &["x"], &["y"])], own())]);
    assert!(matches!(check(&itself), Err(ModelError::RecursiveFunction { .. })));
    let each_other = calling(vec![
        f(vec![node("own", "G", &["x"], &["y"])], own()),
        function("own", "G", vec![node("own", "F", &["x"], &["y"])], own()),
    ]);
    assert!(matches!(check(&each_other), Err(ModelError::RecursiveFunction { .. })));
    let mut unimported = calling(vec![f(vec![relu()], own())]);
    unimported.opset_import.truncate(1);
    assert!(matches!(check(&unimported), Err(ModelError::DomainNotImported { user, .. }) if user == "the graph"));
    let mut shadowing = model(graph(vec![relu()]));
    shadowing.functions = vec![function("", "Relu", vec![node("", "Frob", &["x"], &["y"])], vec![opset("", 13)])];
    check(&shadowing).expect("the runtime's own operator comes first");
}

#[test]
fn nodes_of_one_graph_need_different_names_unless_they_are_constants() {
    let named = |operator: &str| NodeProto { name: b"n".to_vec(), ..node("", operator, &["x"], &["y"]) };
    let twice = model(graph(vec![named("Relu"), named("Elu")]));
    assert!(matches!(check(&twice), Err(ModelError::DuplicateNode { node, .. }) if node == "n"));
    check(&model(graph(vec![named("Constant"), named("Constant"), named("Relu")]))).expect("constants do not count");
    check(&model(graph(vec![named("Relu"), with_branches(named("Relu"), relu())]))).expect("graphs are apart");
}

#[test]
fn operator_tables_are_read_strictly() {
    let text = |format: u32, more: &str| {
        format!(
            r#"{{"format":{format},"runtime":"r","version":"1","provider":"p","platform":"linux/amd64","max_ir_version":9,
            "type_sets":[["tensor(float)"]],"domains":{{"ai.onnx":{{"max_opset":9,"functions":false,"operators":{{
            "A":{{"1":{{"inputs":["T"],"outputs":["T"],"kernels":[{{"T":0}}]}}}}{more}}}}}}}}}"#
        )
    };
    OperatorTable::parse(&text(1, "")).expect("a sound table");
    assert!(matches!(OperatorTable::parse(&text(2, "")), Err(ModelError::TableFormat { found: 2, expected: 1 })));
    for more in
        [r#","B":{"1":{"inputs":["T"],"kernels":[{"T":1}]}}"#, r#","B":{"1":{"inputs":["T"],"kernels":[{"U":0}]}}"#, r#","B":{}"#]
    {
        assert!(matches!(OperatorTable::parse(&text(1, more)), Err(ModelError::TableReference { .. })), "{more}");
    }
    for broken in [text(1, r#","B":{"1":{"kernel":[]}}"#), "{}".to_owned(), text(1, "")[1..].to_owned()] {
        assert!(matches!(OperatorTable::parse(&broken), Err(ModelError::TableParse { .. })), "{broken}");
    }
    assert!(matches!(OperatorTable::load(Path::new("none.json")), Err(ModelError::TableRead { .. })));
}
