# Everything a developer runs. Each target installs what it needs and is missing (as root or with sudo;
# otherwise it says the command).

.DEFAULT_GOAL := help
.PHONY: help run test prove faults autobahn build lint bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## walcast with a private Postgres and sample data, in the foreground (PORT=8080)
	@integration/setup/run.sh

test: ## every test there is: lint, unit, integration, browser, fuzz
	@integration/setup/test.sh

prove: ## generated policies: verdicts compared with direct SELECTs (VERDICTS=300000 SEED=1)
	@bash -c '. integration/setup/install.sh && need_rust && need_postgres'
	WALCAST_PROVE_VERDICTS=$(or $(VERDICTS),300000) WALCAST_PROVE_SEED=$(or $(SEED),$(shell date +%s)) \
		cargo test --release -p walcast-rls --test prove -- --nocapture

faults: ## the fault suite in full, with a table of what was counted (FAULTS="a1 b18" SEED=1 POSTGRES=17)
	@integration/setup/faults.sh $(FAULTS)

autobahn: ## the WebSocket against the Autobahn suite, groups 1 to 7 and 10 (needs Python 2.7)
	@integration/setup/autobahn.sh

build: ## the release binary, target/release/walcast
	cargo build --release --bin walcast

lint: ## format and clippy, warnings are errors
	cargo fmt --all --check -- -l
	cargo clippy --workspace --all-targets -- -D warnings

bench: ## how fast the release binary is (BENCH="--quick --json --only latency,drain,memory,fanout,rls,log,resume,snapshot,recovery,channels,supabase")
	@bash -c '. integration/setup/install.sh && need_rust && need_postgres'
	cargo build --release --bin walcast --bin walcast-bench
	@ulimit -n "$$(ulimit -Hn)" && "$${CARGO_TARGET_DIR:-target}/release/walcast-bench" $(BENCH)
