# SPDX-License-Identifier: Apache-2.0
# Trine.  `make help` lists the targets.

# ---- options -----------------------------------------------------------------------------------
PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo
# e2e: run only the cases whose names contain one of these words; another runtime to compare with.
CASES   ?=
RUNTIME ?= io.containerd.trine.v1
# compat: --fast, --source=NAME, --jobs=N, --ask-again, --tidy.
COMPAT  ?=
# bench: --quick, --only=WHAT, --systems=NAMES, --runs=N, --check.
BENCH   ?=
# fuzz: seconds for each target, and the seed.
SECONDS_EACH ?= 3600
SEED    ?= 1
# e2e: how many containers the leak check starts, one after the other and at once.
export TRINE_E2E_SEQUENTIAL ?= 200
export TRINE_E2E_PARALLEL   ?= 20
# ------------------------------------------------------------------------------------------------

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
RELEASE     := target/x86_64-unknown-linux-gnu/release
KERNEL_ELF  := target/x86_64-unknown-linux-gnu/kernel/trine-kernel
KERNEL      := $(RELEASE)/trine-kernel
KERNEL_MAX  := 1572864
PROGRAMS    := -p trine-cli -p containerd-shim-trine -p trine-vmm -p trine-io
GUEST       := -p trine-nucleus -p trine-kernel
E2E         := $(CARGO) run -q -p trine-e2e --
TOOLS       := $(CARGO) run -q -p trine-tools --
LOGS        := target/logs

.DEFAULT_GOAL := help
.PHONY: help setup build kernel test demo lint bench compat e2e-ctr e2e-kvm fuzz install uninstall

help: ## print this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

setup: ## install the Debian packages that building and testing need, and fetch those that guests need
	@e2e/setup.sh
	@$(E2E) fetch

build: kernel ## build the programs and the guest kernel
	@$(CARGO) build --release $(PROGRAMS)

# By itself: together with host crates, cargo would build what both use with the features of both.
kernel: ## build the guest kernel, strip it, and check its size
	@$(CARGO) build --profile kernel -p trine-kernel
	@mkdir -p $(RELEASE); objcopy --strip-all $(KERNEL_ELF) $(KERNEL)
	@size=$$(stat -c %s $(KERNEL)); echo "trine-kernel: $$size bytes (at most $(KERNEL_MAX))"; \
	 [ $$size -le $(KERNEL_MAX) ]

test: build ## run all tests: units, containerd end to end, the standard-KVM lane, fast compatibility
	@mkdir -p $(LOGS); status=0; \
	 $(CARGO) test --no-fail-fast 2>&1 | tee $(LOGS)/unit.log || status=1; \
	 $(E2E) ctr --runtime $(RUNTIME) $(CASES) 2>&1 | tee $(LOGS)/ctr.log || status=1; \
	 $(E2E) kvm $(CASES) 2>&1 | tee $(LOGS)/kvm.log || status=1; \
	 $(E2E) compat --fast $(COMPAT) -- $(CASES) 2>&1 | tee $(LOGS)/compat.log || status=1; \
	 $(TOOLS) totals $(LOGS)/{unit,ctr,kvm,compat}.log || status=1; exit $$status

demo: setup build ## do all set-up and show containers in micro-VMs, step by step
	@$(E2E) demo

lint: ## check format, lints, licences, the crate graph and links in documents
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --all-targets -- -D warnings
	@$(CARGO) clippy $(GUEST) -- -D warnings
	@$(TOOLS) check
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	 else echo "cargo-deny is not installed: licences and sources were checked, advisories were not"; fi

# Without the programs, the benchmark says which rows are absent.
bench: build ## compare with runc (and runsc, if there): table, JSON and a figure
	@$(E2E) bench-root >/dev/null || true
	@$(CARGO) run --release -q -p trine-bench -- $(BENCH)

compat: build ## compare programs and test suites from Debian under Trine and under runc
	@$(E2E) compat $(COMPAT) -- $(CASES)

e2e-ctr: build ## run containers through a private containerd; RUNTIME=io.containerd.runc.v2 compares
	@$(E2E) ctr --runtime $(RUNTIME) $(CASES)

e2e-kvm: build ## run VM tests under a standard KVM that QEMU emulates; needs no /dev/kvm
	@$(E2E) kvm $(CASES)

fuzz: ## feed mutated input to what reads guests and files, SECONDS_EACH for each target
	@TRINE_FUZZ_SECONDS=$(SECONDS_EACH) TRINE_FUZZ_SEED=$(SEED) \
	 $(CARGO) test --release -p trine-fuzz -- --nocapture --test-threads=2

install: ## install into PREFIX (default /usr/local), under DESTDIR if that is set; build first
	@install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/trine
	@install -m 755 $(RELEASE)/trine $(RELEASE)/containerd-shim-trine-v1 $(DESTDIR)$(PREFIX)/bin/
	@install -m 755 $(RELEASE)/trine-vmm $(RELEASE)/trine-io $(DESTDIR)$(PREFIX)/libexec/trine/
	@install -m 644 $(KERNEL) $(DESTDIR)$(PREFIX)/libexec/trine/
	@share=$(DESTDIR)$(PREFIX)/share; trine=$(RELEASE)/trine; \
	 install -d $$share/bash-completion/completions $$share/zsh/site-functions \
	            $$share/fish/vendor_completions.d; \
	 $$trine completion bash > $$share/bash-completion/completions/trine; \
	 $$trine completion zsh > $$share/zsh/site-functions/_trine; \
	 $$trine completion fish > $$share/fish/vendor_completions.d/trine.fish

uninstall: ## remove what install put there
	@rm -f $(DESTDIR)$(PREFIX)/bin/{trine,containerd-shim-trine-v1}
	@rm -rf $(DESTDIR)$(PREFIX)/libexec/trine
	@share=$(DESTDIR)$(PREFIX)/share; \
	 rm -f $$share/bash-completion/completions/trine $$share/zsh/site-functions/_trine \
	       $$share/fish/vendor_completions.d/trine.fish
