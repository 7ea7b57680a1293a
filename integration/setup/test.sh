#!/usr/bin/env bash
# `make test`: every test there is, cheapest first; stops at the first that fails.
set -eu
cd "$(dirname "$0")/../.."
. integration/setup/install.sh

SOAK_SECONDS=${SOAK_SECONDS:-15}

main() {
    need_rust
    need_postgres
    need_node
    need_chromium
    step "format" cargo fmt --all --check -- -l
    step "clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings
    step "unit and integration tests" cargo test --workspace --quiet
    step "the page in a browser" page
    if [ -d fuzz ]; then
        step "fuzz, for $SOAK_SECONDS s" soak
    fi
    say "everything passed, after $SECONDS s"
}

step() {
    say "$1 (at $SECONDS s)"
    shift
    "$@"
}

page() {
    cargo build --quiet --bin walcast
    (cd integration && npm ci --no-audit --no-fund --loglevel=error)
    WALCAST=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/walcast \
        node --test --test-reporter=spec integration/page/*.test.mjs
}

soak() {
    cargo run --quiet --manifest-path fuzz/Cargo.toml --release --bin soak -- --seconds "$SOAK_SECONDS"
}

main
