#!/usr/bin/env bash
# `make test`: every test there is, cheapest first; stops at the first that fails.
set -eu
cd "$(dirname "$0")/../.."
. integration/setup/install.sh

# The same dice each time: a change is judged by what it changes. Others: WALCAST_SEED=$RANDOM make test,
# a plain cargo test, make prove, make faults. The Rust tests alone get them: walcast takes no variable
# that it doesn't know.
SEEDS=(
    WALCAST_SEED="${WALCAST_SEED:-1}"
    WALCAST_TEST_SEED="${WALCAST_TEST_SEED:-1}"
    WALCAST_FAULTS_SEED="${WALCAST_FAULTS_SEED:-1}"
    PROPTEST_RNG_SEED="${PROPTEST_RNG_SEED:-1}"
)
unset WALCAST_SEED WALCAST_TEST_SEED WALCAST_FAULTS_SEED
# The same inputs on every machine, too. More of them: SOAK_SECONDS=600 make test.
SOAK=(--executions 200000)
[ -z "${SOAK_SECONDS:-}" ] || SOAK=(--seconds "$SOAK_SECONDS")

main() {
    # One test opens a thousand sockets, and the soft limit of many systems is 1024.
    [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge 8192 ] || ulimit -S -n 8192 2>/dev/null ||
        say "no more than $(ulimit -n) files may be open here: some tests need more"
    need_rust
    need_postgres
    need_node
    need_chromium
    need_faketime || say "without libfaketime: the clock does not jump in the fault suite"
    step "format" cargo fmt --all --check -- -l
    step "clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings
    step "unit and integration tests" rust_tests
    step "the WebSocket against the Autobahn suite" autobahn
    step "packages of the tests with clients" packages
    step "the page in a browser" page
    step "Supabase's clients" clients
    if [ -d fuzz ]; then
        step "fuzz" soak
    fi
    say "everything passed, after $SECONDS s"
}

step() {
    say "$1 (at $SECONDS s)"
    shift
    "$@"
}

rust_tests() {
    env "${SEEDS[@]}" cargo test --workspace --quiet
}

# 3: there is no Python 2.7, and it has said so.
autobahn() {
    integration/setup/autobahn.sh || [ $? = 3 ]
}

packages() {
    cargo build --quiet --bin walcast
    WALCAST=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/walcast
    export WALCAST
    need_node_packages
    need_python_clients
}

page() {
    node --test --test-reporter=spec integration/page/*.test.mjs
}

# Mostly they wait. The clients leave timers behind that the end is not to wait for.
clients() {
    node --test --test-force-exit --test-concurrency 3 --test-reporter=spec integration/clients/*.test.mjs
}

soak() {
    cargo run --quiet --manifest-path fuzz/Cargo.toml --release --bin soak -- "${SOAK[@]}"
}

main
