#!/usr/bin/env bash
# Builds everything and runs every test: those in Rust, then the judges in Python. Prints how many ran.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
step() { printf '\n== %s\n' "$*"; }

step "build"
cargo build --locked --workspace --bins --examples
cargo build --locked --profile server -p imgserve
python=$(tests/tools/venv.sh)
library=$(tests/tools/fetch-onnxruntime.sh)

step "the server, judged by Triton's client"
"$python" server/tests/judge.py --server "$target/server/imgserve" --library "$library"

step "the server on every model of the onnx package"
"$python" server/tests/onnx_backend.py --server "$target/server/imgserve" --library "$library"

step "the model reader, judged by onnx and ONNX Runtime"
"$python" tests/tools/model_judge.py "$target/debug/examples/model_verdict" templates/operators/onnxruntime-1.32.0.json build/model-judge

step "tests in Rust"
cargo nextest run --locked --workspace --no-fail-fast
