# weir: `make demo` shows it, `make test` checks it. Both need root: they make network namespaces.

CARGO ?= cargo

.PHONY: demo test fuzz bench lint ebpf deps

demo: deps
	$(CARGO) build --release --workspace
	target/release/weir-bench demo

# Everything that must hold, cheapest first. The namespace tests run one at a time: each has real
# traffic to move. Those with a gateway run in both tiers. A run of tests names all that fail.
# The programs that namespace tests start are built with the tests of their own crates, before.
test: deps lint
	$(CARGO) test --no-fail-fast --workspace --locked --exclude weir-kit --exclude weir-bench
	$(CARGO) test --no-fail-fast --locked -p weir-kit -p weir-bench -- --test-threads=1
	WEIR_TIER=user $(CARGO) test --no-fail-fast --locked -p weir-bench --test gateway --test strangers --test addresses --test signals --test parts --test ipv6 --test ipv6_modes --test ipv6_translation --test ipv6_edges --test by_host --test source --test multipath --test delegation --test stateless --test nat_conduct --test nat_judges --test nat_log --test fragments --test protocols --test filter --test from_uplinks --test sets --test unsolicited --test publish --test port_mapping --test upnp --test metrics --test ipfix --test explain -- --test-threads=1
	RUSTFLAGS="--cfg loom" $(CARGO) test --locked --release -p weir-shm --lib --target-dir target/loom
	scripts/ebpf-build --install --check

# A hundred million broken frames for the parser and as many for the engine, of which `make test`
# takes a tenth; and as many steps of sequences, and of those that both tiers take side by side, of
# which it takes two million each.
fuzz:
	WEIR_FUZZ_FRAMES=100000000 WEIR_FUZZ_STEPS=100000000 $(CARGO) test --release --locked \
		-p weir-wire -p weir-dataplane --test fuzz --test engine -- broken_frames sequences tiers

# Measures everything that one machine can, in about ten minutes: target/bench/report.md.
bench:
	$(CARGO) build --release --workspace
	target/release/weir-bench report

lint:
	$(CARGO) fmt --all --check
	shellcheck deploy/hooks/*
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

# Rebuilds the committed XDP object.
ebpf:
	scripts/ebpf-build --install --update

deps:
	scripts/install-deps
