#!/usr/bin/env bash
# `make run`: a private Postgres with sample data, and walcast in front of it, until Ctrl-C.
#
# From the environment, all optional:
#   PORT           where walcast listens on 127.0.0.1 (8080)
#   POSTGRES_PORT  the private Postgres's port (the first free one from 15432)
#   RUN_DIR        where everything is kept between runs (.run)
#   WALCAST        a binary to use instead of building the release one
set -u
cd "$(dirname "$0")/../.." || exit 1
. integration/setup/install.sh
. integration/setup/postgres.sh

PORT=${PORT:-8080}
RUN_DIR=${RUN_DIR:-$PWD/.run}
ALICE=a11ce000-0000-4000-8000-000000000001
BOB=b0b00000-0000-4000-8000-000000000002

main() {
    claim_run_dir
    ! taken "$PORT" || fail "Port $PORT is taken; choose another one: make run PORT=8081"
    need_postgres
    build
    trap end EXIT
    trap : INT TERM HUP # whatever runs in the foreground gets it too and ends; then we do
    start_postgres
    prepare_database
    make_tokens
    serve
}

claim_run_dir() {
    mkdir -p "$RUN_DIR" && RUN_DIR=$(cd "$RUN_DIR" && pwd) || fail "$RUN_DIR can't be used."
    exec 9>"$RUN_DIR/lock"
    flock -n 9 || fail "make run is already running here ($RUN_DIR)."
}

build() {
    if [ -z "${WALCAST:-}" ]; then
        need_rust
        say "building the release binary"
        cargo build --release --bin walcast 9>&- || exit 1
        WALCAST=${CARGO_TARGET_DIR:-target}/release/walcast
    fi
}

prepare_database() {
    say "migrations and sample data"
    sql postgres postgres -o /dev/null -f integration/setup/logins.sql &&
        WALCAST_DATABASE_URL=$(postgres_url walcast_owner) "$WALCAST" migrate &&
        sql walcast_owner walcast -o /dev/null -f integration/setup/sample.sql ||
        fail "The database could not be prepared; see above."
}

make_tokens() {
    local secret=$RUN_DIR/jwt-secret users=$RUN_DIR/users.json
    if [ ! -s "$secret" ]; then
        (umask 077 && head -c 48 /dev/urandom | base64 -w0 >"$secret")
    fi
    WALCAST_JWT_SECRET=$(cat "$secret")
    export WALCAST_JWT_SECRET
    alice_token=$(token "$ALICE") && bob_token=$(token "$BOB") || fail "The tokens could not be made."
    (umask 077 && cat >"$users") <<-JSON
	{"users": [
	  {"name": "alice", "id": "$ALICE", "token": "$alice_token"},
	  {"name": "bob", "id": "$BOB", "token": "$bob_token"}
	]}
	JSON
}

token() {
    "$WALCAST" token --role authenticated --sub "$1" --expires-in 30d
}

# In a session of its own: Ctrl-C reaches walcast through us, once, and once more when pressed again
# (which it takes as "at once").
serve() {
    tell
    WALCAST_DATABASE_URL=$(postgres_url walcast_replication) \
        WALCAST_RLS_DATABASE_URL=$(postgres_url walcast_rls) \
        WALCAST_LISTEN=127.0.0.1:$PORT \
        WALCAST_LOG_DIR=$RUN_DIR/log \
        WALCAST_SAMPLE_USERS_FILE=$RUN_DIR/users.json \
        setsid "$WALCAST" serve 9>&- &
    server=$!
    wait "$server" # a signal to us interrupts this
    status=$?
    while kill -TERM "$server" 2>/dev/null; do
        wait "$server"
        status=$?
    done
    server=
    exit "$status"
}

tell() {
    say "walcast is starting; Ctrl-C ends it and its Postgres"
    cat <<-TEXT

	  The page    http://127.0.0.1:$PORT/

	  alice       $alice_token
	  bob         $bob_token

	  Change something of alice's, and look at who hears of it:
	    $POSTGRES_PROGRAMS/psql $(postgres_url walcast_owner) -c \\
	      "insert into todos (user_id, title) values ('$ALICE', 'Buy milk')"

	  Listen without a browser, as alice:
	    cargo run -q -p walcast-harness --example listen -- \\
	      'ws://127.0.0.1:$PORT/realtime?token=$alice_token' table:public.todos

	TEXT
}

end() {
    trap '' INT TERM HUP
    if [ -n "${server:-}" ]; then
        kill -TERM "$server" 2>/dev/null
        wait "$server"
    fi
    stop_postgres
}

main
