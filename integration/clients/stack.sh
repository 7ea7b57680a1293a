#!/usr/bin/env bash
# stack.sh up FOLDER: a private Postgres in FOLDER with the logins, walcast's migrations and schema.sql;
# prints its port. stack.sh restart FOLDER and stack.sh down FOLDER: restart and end it. WALCAST names the binary.
set -eu
cd "$(dirname "$0")/../.."
. integration/setup/install.sh
. integration/setup/postgres.sh
RUN_DIR=$2

up() {
    mkdir -p "$RUN_DIR"
    start_postgres
    sql postgres postgres -o /dev/null -f integration/setup/logins.sql
    WALCAST_DATABASE_URL=$(postgres_url walcast_owner) "$WALCAST" migrate >/dev/null
    sql walcast_owner walcast -o /dev/null -f integration/clients/schema.sql
    echo "$POSTGRES_PORT"
}

restart() {
    choose_account
    choose_postgres_folder
    postgres_control restart -w -m fast >/dev/null
}

down() {
    choose_account
    choose_postgres_folder
    [ -z "${postgres_folder:-}" ] || postgres_control stop -m immediate >/dev/null 2>&1 || true
    as_postgres rm -rf "$postgres_folder"
    rm -rf "$RUN_DIR"
}

find_postgres
"$1"
