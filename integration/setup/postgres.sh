# shellcheck shell=bash
# A private Postgres that `make run` keeps its data in. To be sourced after install.sh.
#
# POSTGRES_FSYNC=off: nobody keeps the data, it need not outlive the machine (for tests).
#
# Everything is in $RUN_DIR. As root, Postgres runs as the account postgres, and its files move to
# /var/tmp when that account can't reach $RUN_DIR.

start_postgres() {
    choose_account
    choose_postgres_folder
    if ! as_postgres test -f "$postgres_folder/data/PG_VERSION"; then
        say "creating the private Postgres in $postgres_folder"
        create_cluster
    fi
    # One that a killed run left behind is started anew: its port may be another one.
    postgres_control status >/dev/null && postgres_control stop -m fast >/dev/null
    choose_postgres_port
    postgres_control start -w -l "$postgres_folder/log" -o "-p $POSTGRES_PORT" >/dev/null ||
        fail "Postgres does not start; its log:" "$(as_postgres tail -n 20 "$postgres_folder/log")"
}

stop_postgres() {
    [ -z "${postgres_folder:-}" ] || postgres_control stop -m fast >/dev/null 2>&1
}

choose_account() {
    as_account=()
    [ "$(id -u)" != 0 ] && return
    local account
    for account in postgres nobody; do
        if id "$account" >/dev/null 2>&1; then
            as_account=(setpriv "--reuid=$account" "--regid=$(id -g "$account")" --clear-groups)
            return
        fi
    done
    fail "Postgres does not run as root, and there is no account postgres."
}

as_postgres() {
    (cd / && exec env LC_ALL=C PGCTLTIMEOUT="${PGCTLTIMEOUT:-180}" "${as_account[@]}" "$@")
}

# Unix sockets live in the folder too, and their path has at most 107 bytes.
choose_postgres_folder() {
    postgres_folder=$RUN_DIR/postgres
    if [ "${#postgres_folder}" -gt 85 ] || ! as_postgres test -x "$RUN_DIR"; then
        postgres_folder=/var/tmp/walcast-$(id -u)-$(printf %s "$RUN_DIR" | cksum | cut -d' ' -f1)
    fi
    if [ ! -e "$postgres_folder" ]; then
        mkdir -m 700 "$postgres_folder" || fail "$postgres_folder can't be created."
        [ "$(id -u)" != 0 ] || chown "$(as_postgres id -u)" "$postgres_folder"
    fi
    as_postgres test -O "$postgres_folder" || fail "$postgres_folder belongs to another account; please remove it."
}

create_cluster() {
    local sync=()
    [ "${POSTGRES_FSYNC:-on}" = on ] || sync=(--no-sync)
    as_postgres rm -rf "$postgres_folder/new"
    as_postgres "$POSTGRES_PROGRAMS/initdb" -D "$postgres_folder/new" \
        "${sync[@]}" -U postgres -A trust -E UTF8 --locale=C >"$RUN_DIR/initdb.log" 2>&1 ||
        fail "initdb failed:" "$(cat "$RUN_DIR/initdb.log")"
    as_postgres sh -c 'cat >>"$1"' - "$postgres_folder/new/postgresql.conf" <<-CONF
	listen_addresses = '127.0.0.1'
	unix_socket_directories = '$postgres_folder'
	wal_level = logical
	max_wal_senders = 10
	max_replication_slots = 10
	max_slot_wal_keep_size = 2GB
	fsync = ${POSTGRES_FSYNC:-on}
	CONF
    # Only a complete one has the name.
    as_postgres mv "$postgres_folder/new" "$postgres_folder/data"
}

# The same port as last time if it is free, else the next free one.
choose_postgres_port() {
    [ -n "${POSTGRES_PORT:-}" ] && return
    POSTGRES_PORT=$(cat "$RUN_DIR/postgres-port" 2>/dev/null || echo 15432)
    while taken "$POSTGRES_PORT"; do
        POSTGRES_PORT=$((POSTGRES_PORT + 1))
    done
    echo "$POSTGRES_PORT" >"$RUN_DIR/postgres-port"
}

taken() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# The lock of the run is not for Postgres: it would hold it after a killed run.
postgres_control() {
    as_postgres "$POSTGRES_PROGRAMS/pg_ctl" "$@" -D "$postgres_folder/data" </dev/null 9>&-
}

# postgres_url LOGIN [DATABASE]
postgres_url() {
    echo "postgres://$1@127.0.0.1:$POSTGRES_PORT/${2:-walcast}"
}

# sql LOGIN DATABASE ARGUMENT... : psql, stops at the first error.
sql() {
    local login=$1 database=$2
    shift 2
    "$POSTGRES_PROGRAMS/psql" -XqAt -v ON_ERROR_STOP=1 -d "$(postgres_url "$login" "$database")" "$@"
}
