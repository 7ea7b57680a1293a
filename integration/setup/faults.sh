#!/usr/bin/env bash
# `make faults`: the fault suite in its full form, against the optimised binary; prints a table.
# Arguments are parts of scenarios' names; without any, all run. POSTGRES=17 runs them on that version.
set -eu
cd "$(dirname "$0")/../.."
. integration/setup/install.sh

main() {
    need_rust
    need_postgres
    need_faketime || say "without libfaketime: the clock does not jump"
    local major
    for major in 17 18; do
        need_postgres_major "$major" || say "without PostgreSQL $major"
    done
    if [ -n "${POSTGRES:-}" ]; then
        need_postgres_major "$POSTGRES" || fail "PostgreSQL $POSTGRES is not to be had here."
        local programs=WALCAST_POSTGRES_$POSTGRES
        export WALCAST_POSTGRES=${!programs}
    fi
    # Ten thousand clients.
    ulimit -n "$(ulimit -Hn)"
    cargo build --release --quiet --bin walcast
    local target report status=0
    target=$(realpath "${CARGO_TARGET_DIR:-target}")
    report=$(mktemp)
    export WALCAST_FAULTS=full WALCAST_FAULTS_REPORT="$report"
    export WALCAST_FAULTS_BINARY="$target/release/walcast"
    [ -z "${SEED:-}" ] || export WALCAST_FAULTS_SEED="$SEED"
    cargo test --quiet -p walcast-server --test faults -- --test-threads 2 "$@" || status=$?
    table <"$report"
    rm -f "$report"
    say "the fault suite took $SECONDS s"
    return "$status"
}

# The columns of tests/faults/report.rs, and their sums.
table() {
    sort | awk -F '\t' '
        BEGIN {
            form = "%-30s %11s %8s %9s %7s %9s %5s %5s %6s %6s %5s %8s %7s %7s %7s  %s\n"
            printf form, "scenario", "seed", "commits", "changes", "clients", "received", "lost", "twice",
                "leaked", "wrong", "gaps", "resumed", "faults", "first s", "all s", "notes"
        }
        {
            printf form, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16
            for (column = 3; column <= 13; column++) sum[column] += $column
        }
        END {
            printf form, "together", "", sum[3], sum[4], sum[5], sum[6], sum[7], sum[8], sum[9], sum[10],
                sum[11], sum[12], sum[13], "", "", ""
        }'
}

main "$@"
