# The tasks of this tree. Each target first makes sure of what it needs (.ci/deps), so a new
# Debian 12 machine with Rust can start with any of them.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# A RUSTFLAGS or a target from outside would replace what .cargo/config.toml says, and with it the
# static linking.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET

target_dir = $(or $(CARGO_TARGET_DIR),target)
triple = $(shell rustc -vV | sed -n 's/^host: //p')
bpf_sources = $(wildcard bpf/*.[ch] benches/*/*.bpf.c)
sudo = $(if $(filter 0,$(shell id -u)),,sudo)

# Where `make install` puts executable and configuration (CONF, else examples/10-weir.conflist, where
# there is none yet), and where the link goes that an operator types.
CNI_BIN ?= /opt/cni/bin
CNI_CONF ?= /etc/cni/net.d
CONF ?=
PREFIX ?= /usr/local

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: deps
deps: ## install whatever the other targets would (Debian packages)
	@.ci/deps build lint test bench web kernels

.PHONY: build
build: ## compile target/release/weir, one static executable
	@.ci/deps build
	cargo build --release --locked
	@mkdir -p target/release
	@install -m 755 $(target_dir)/$(triple)/release/weir target/release/weir.new
	@mv -f target/release/weir.new target/release/weir

.PHONY: demo
demo: build ## plumb two throw-away pods, send real traffic, show what was counted (root)
	$(sudo) target/release/weir demo

# Tests need what they need, and fail without it. Only who says so goes without those of containerd and
# podman, which need control groups of their own; cargo counts them as filtered out.
WITHOUT_RUNTIMES ?=

# A test waits for others' timers as long as it computes.
at_a_time = $(shell echo $$((2 * $$(nproc))))

.PHONY: test
test: ## every test, on real namespaces and the real kernel (root); WITHOUT_RUNTIMES=1 leaves out containerd and podman
	@.ci/deps build test
	@[ $$(id -u) = 0 ] || { echo 'make test needs root: it makes namespaces and loads BPF' >&2; exit 1; }
	cargo test --locked --workspace -- --test-threads=$(at_a_time) $(if $(WITHOUT_RUNTIMES),--skip containerd:: --skip podman::)

.PHONY: conformance
conformance: ## check any CNI plugin: make conformance PLUGIN=/opt/cni/bin/ptp CONF=ptp.json (root)
	cargo build --locked -p cni-conformance
	$(sudo) $(target_dir)/$(triple)/debug/cni-conformance --plugin $(PLUGIN) --conf $(CONF)

.PHONY: torture-kill
torture-kill: ## kill calls at every system call, and fail every one, where `make test` tries a sample (root)
	@.ci/deps build test
	WEIR_TORTURE=1 cargo test --locked --test kill

.PHONY: torture
torture: ## pods under faults of all kinds for ten minutes (WEIR_TORTURE_SECONDS, _SEED, _ROUND), the node judged after each round (root)
	@.ci/deps build test
	WEIR_TORTURE=1 cargo test --locked --test torture -- --nocapture

.PHONY: kernels
kernels: build ## boot the oldest supported kernel, and others, under qemu; say what works on each
	@.ci/deps kernels
	cargo build --release --locked --features other-layout --bin weir-other-layout
	tests/kernels/matrix target/release/weir $(target_dir)/$(triple)/release/weir-other-layout
	cargo build --locked --example verifier
	tests/kernels/verified $(target_dir)/$(triple)/debug/examples/verifier

.PHONY: oldest-kernel
oldest-kernel: ## of kernels, only the oldest, with the executable that make test tests
	@.ci/deps build kernels
	cargo test -q --locked --workspace --no-run
	cargo build -q --locked --features other-layout --bin weir-other-layout
	tests/kernels/matrix $(target_dir)/$(triple)/debug/weir $(target_dir)/$(triple)/debug/weir-other-layout 6.1

.PHONY: lint
lint: ## formatting, clippy, rustdoc, licences and sources of dependencies
	@.ci/deps build lint
	cargo fmt --all --check
	clang-format --dry-run -Werror $(bpf_sources)
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items
	cargo deny --locked check licenses bans sources

.PHONY: fmt
fmt: ## format the Rust and the C
	@.ci/deps lint
	cargo fmt --all
	clang-format -i $(bpf_sources)

# Each runs alone, and one that fails keeps no other from running: the table names it and fails then.
benches = plugin datapath events agent page sandbox fleet
bench_rows = $(abspath $(target_dir))/bench.jsonl

.PHONY: bench
bench: build ## measure plugin, programs, records, agent, page, pods of containerd and a fleet beside their peers: one table, target/bench.txt (root)
	@.ci/deps bench
	cargo bench --locked --no-run $(foreach bench,$(benches) table,--bench $(bench))
	@rm -f $(bench_rows); touch $(bench_rows); mkdir -p target
	@for bench in $(benches); do \
		WEIR_BENCH_ROWS=$(bench_rows) cargo bench -q --locked --bench $$bench >/dev/null || true; \
	done
	@WEIR_BENCH_ROWS=$(bench_rows) cargo bench -q --locked --bench table -- $(benches) | tee target/bench.txt

.PHONY: web
web: ## bundle the agent's page anew after a change below web/; its output is part of the tree
	@.ci/deps web
	cd web && npm ci --ignore-scripts && npm run build

.PHONY: web-check
web-check: ## bundle the page anew, and fail if that is not what is in the tree
	@.ci/deps web
	cd web && npm ci --ignore-scripts && npm run check

.PHONY: docs
docs: ## the API's documentation, target/doc/weir/index.html
	@.ci/deps build
	cargo doc --locked --no-deps --document-private-items

.PHONY: install
install: build ## put weir into CNI_BIN and a configuration into CNI_CONF by rename, a link into PREFIX/bin (root)
	$(sudo) target/release/weir install --bin-dir $(DESTDIR)$(CNI_BIN) --conf-dir $(DESTDIR)$(CNI_CONF) $(if $(CONF),--conf $(CONF))
	$(sudo) mkdir -p $(DESTDIR)$(PREFIX)/bin
	$(sudo) ln -sfn $(CNI_BIN)/weir $(DESTDIR)$(PREFIX)/bin/weir

.PHONY: uninstall
uninstall: ## take weir away again; running pods keep their network (root)
	$(sudo) $(DESTDIR)$(CNI_BIN)/weir uninstall --bin-dir $(DESTDIR)$(CNI_BIN) --conf-dir $(DESTDIR)$(CNI_CONF)
	$(sudo) rm -f $(DESTDIR)$(PREFIX)/bin/weir
