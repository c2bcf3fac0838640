# Every target is described by the comment behind it; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PREFIX ?= /usr/local
DESTDIR ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := build/venv

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: deps
deps: ## install what building and testing need and this machine lacks (Debian or Ubuntu)
	@tests/tools/install-deps.sh

.PHONY: build
build: ## build imgbuild and imgserve, optimised
	cargo build --locked --release -p imgbuild
	cargo build --locked --profile server -p imgserve

.PHONY: install
install: build ## put imgbuild, imgserve and the data files below PREFIX (/usr/local)
	install -D -m 755 $(TARGET)/release/imgbuild $(DESTDIR)$(PREFIX)/bin/imgbuild
	install -D -m 755 $(TARGET)/server/imgserve $(DESTDIR)$(PREFIX)/bin/imgserve

.PHONY: demo
demo: ## package a real model, run it, and print its size and cold-start reports; needs no Docker
	@tests/tools/install-deps.sh --demo
	@$(MAKE) --no-print-directory build
	@tests/tools/demo.sh

.PHONY: test
test: ## run every test
	@tests/tools/install-deps.sh
	@tests/tools/test.sh

.PHONY: lint
lint: ## check formatting and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: verify-full
verify-full: build ## send every operator case of the onnx package through the gate, an image each, and print the counts
	@IMGBUILD_STORE=build/test-store IMGBUILD_SERVER=$(TARGET)/server/imgserve $$(tests/tools/venv.sh) tests/tools/operator_cases.py \
	  --imgbuild $(TARGET)/release/imgbuild --folder build/operator-cases --expect tests/tools/operator_cases.txt

.PHONY: savedmodel-check
savedmodel-check: build ## basic-pitch and ResNet50 by both TensorFlow stacks, embedded and in Docker, against TensorFlow's Python (35 minutes)
	@tests/tools/install-deps.sh
	@tests/tools/savedmodel-check.sh

.PHONY: gpu-check
gpu-check: build ## the GPU stacks without a GPU: read their data anew, build and load images with NVIDIA's real libraries (2 GB to fetch), print the sizes
	@tests/gpu/evidence.sh
	@tests/gpu/check.sh
	@tests/gpu/tensorflow.sh

.PHONY: check
check: lint test ## what CI runs

.PHONY: bench
bench: build ## measure against docker, buildah, skopeo and a Python image, and write docs/BENCHMARKS.md (BENCH=quick: a smoke test)
	@tests/tools/install-deps.sh
	@BENCH=$(or $(BENCH),full) tests/bench/run.sh

.PHONY: golden
golden: ## write the golden digests anew; commit the change alone and say why
	cargo build --locked -p imgbuild
	cargo build --locked --profile server -p imgserve
	IMGBUILD_GOLDEN=write cargo nextest run --locked --workspace golden

.PHONY: clean
clean: ## remove what was built and fetched
	cargo clean
	rm -rf build
