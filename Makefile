# edgelat: `make help` lists what there is.
#
# Every target that builds calls cross/setup first, which installs what is missing and otherwise only looks.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# One target folder for everything, also where a cargo configuration of the user names another.
export CARGO_TARGET_DIR ?= $(CURDIR)/target

CARGO := cross/cargo
AARCH64 := aarch64-unknown-linux-musl

# What probes or loads programs into the kernel is tested by tests/end-to-end.
WITHOUT_KERNEL := --exclude edgelat-tests --exclude edgelat-guard --exclude edgelat-bpf

# How often `make fuzz` damages each file, how much longer it goes on with random instructions than `make test`, and
# how many seconds it gives to each coverage-guided target.
FUZZ_ITERS ?= 5000
FUZZ_FACTOR ?= 20
FUZZ_SECONDS ?= 60

.PHONY: help build cross demo firmware test matrix bench soak fuzz lint check clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  MUSL_STD=rustup|source  where the musl standard library comes from (default: the first that works)'

build: ## The static x86_64 binaries: dist/x86_64/edgelat, and edgelat-firmware with what a box needs
	@cross/setup build
	@cross/agent x86_64

cross: build ## Also the static aarch64 binaries, in dist/aarch64
	@cross/setup cross
	@cross/agent aarch64

demo: build ## A live latency histogram of a running program that was not rebuilt (root)
	@cross/setup demo
	tests/demo dist/x86_64/edgelat

firmware: cross ## An image that boots and measures a network function, in build/firmware; ARCH=aarch64
	@cross/setup test firmware
	rootfs/firmware $(or $(ARCH),x86_64)

test: cross ## All tests: unit, end to end on real programs, aarch64 under emulation, kernels of CI's part
	@cross/setup test firmware
	$(CARGO) test --locked --workspace $(WITHOUT_KERNEL) --no-fail-fast
	tests/end-to-end dist/x86_64/edgelat
	CARGO_PROFILE_DEV_OPT_LEVEL=1 $(CARGO) test --locked --target $(AARCH64) --package edgelat-sites --package edgelat-image --package edgelat-histogram --lib
	cross/check-emulated dist/aarch64/edgelat
	cross/check-emulated dist/aarch64/edgelat-firmware
	rootfs/firmware x86_64
	@# One virtual machine keeps one processor busy.
	@qemu/firmware & first=$$!; status=0; { qemu/powercut && qemu/systemd; } || status=1; wait $$first || status=1; exit $$status
	qemu/matrix PART=ci
	rootfs/check
	qemu/without

matrix: cross ## The kernels of qemu/kernels.toml in QEMU: K=6.1, ARCH=aarch64 choose; VMLINUZ=FILE is one of your own
	@cross/setup test
	qemu/matrix K=$(K) ARCH=$(ARCH) VMLINUZ=$(VMLINUZ) RECORD=$(RECORD)
	qemu/without

bench: build ## Cost of probing beside other tools, sizes, memory; minutes (root)
	@cross/setup bench
	tests/bench/run

soak: build ## The long tests: attach and detach cycles under load, cuts of power, flash (root)
	@cross/setup test firmware
	tests/soak

fuzz: ## The readers of foreign bytes, fed with damaged ones; coverage-guided where a nightly compiler is
	@cross/setup build
	EDGELAT_FUZZ_ITERS=$(FUZZ_ITERS) $(CARGO) test --locked --release --package edgelat-image --test mutation
	EDGELAT_FUZZ_ITERS=$(FUZZ_FACTOR) $(CARGO) test --locked --release --package edgelat-sites --test random
	EDGELAT_FUZZ_ITERS=$(FUZZ_ITERS) $(CARGO) test --locked --release --package edgelat-spool --test damage
	if cargo +nightly --version >/dev/null 2>&1; then CARGO_TARGET_DIR= tests/fuzz/run all $(FUZZ_SECONDS); fi

lint: ## Formatting, lints and the documentation of the code, as CI wants them
	@cross/setup build
	cargo fmt --all --check
	tests/language
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --exclude edgelat-tests --no-deps

check: lint ## Before each commit: the lints, and all tests that attach no probe
	$(CARGO) test --locked --workspace $(WITHOUT_KERNEL) --no-fail-fast

clean: ## Remove what was built; ~/.cache/edgelat stays
	cargo clean
	rm -rf build dist
