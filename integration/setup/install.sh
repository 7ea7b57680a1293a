# shellcheck shell=bash
# Installs what is missing, from the distribution. To be sourced by bash scripts.

say() { printf '\n\033[1m==> %s\033[0m\n' "$*"; }

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# A registry that does not answer is asked again.
export CARGO_NET_RETRY=${CARGO_NET_RETRY:-10} PIP_RETRIES=${PIP_RETRIES:-10} npm_config_fetch_retries=${npm_config_fetch_retries:-5}

# need WHAT PACKAGE... : installs the Debian packages, or tells how.
need() {
    local what=$1 sudo=
    shift
    if ! command -v apt-get >/dev/null; then
        fail "$what is missing; please install it (Debian's packages: $*)."
    fi
    if [ "$(id -u)" != 0 ]; then
        sudo="sudo -n"
        if ! sudo -n true 2>/dev/null; then
            fail "$what is missing; please run:" "  sudo apt-get install --no-install-recommends $*"
        fi
    fi
    say "installing $what ($*)"
    install_packages "$@" || {
        $sudo apt-get -o Acquire::Retries=5 update -qq && install_packages "$@"
    } || fail "$what could not be installed; see above."
}

install_packages() {
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

need_rust() {
    command -v cargo >/dev/null || fail "Rust is missing; see https://rustup.rs for how to install it."
    command -v cc >/dev/null || need "a C compiler" build-essential
}

# Sets POSTGRES_PROGRAMS: the newest Debian installation's folder, else the PATH's.
need_postgres() {
    find_postgres || { need PostgreSQL postgresql && find_postgres; } ||
        fail "PostgreSQL's initdb and pg_ctl are not found."
}

find_postgres() {
    local initdb
    initdb=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -1)
    initdb=${initdb:-$(command -v initdb)}
    POSTGRES_PROGRAMS=${initdb%/initdb}
    [ -n "$initdb" ] && [ -x "$POSTGRES_PROGRAMS/pg_ctl" ]
}

# need_postgres_major MAJOR : exports WALCAST_POSTGRES_<MAJOR>, the folder of its programs: the
# distribution's, else from npm (the server's programs only). Fails where it is not to be had.
need_postgres_major() {
    local major=$1 programs=/usr/lib/postgresql/$1/bin
    if [ ! -x "$programs/initdb" ]; then
        [ "$(uname -sm)" = "Linux x86_64" ] || return 1
        local package=integration/postgres/node_modules/postgres-$major
        [ -d "$package/native" ] || install_postgres_packages || return 1
        programs=$(realpath "$package")/native/bin
        # Postgres does not run as root, and its account has to reach the folder.
        [ "$(id -u)" != 0 ] || setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$programs/initdb" || return 1
    fi
    export "WALCAST_POSTGRES_$major=$programs"
}

# Their own script of installation, which makes links, is run by name: npm may be set to run none.
install_postgres_packages() {
    local package
    command -v npm >/dev/null || return 1
    (cd integration/postgres && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) || return 1
    for package in integration/postgres/node_modules/postgres-*; do
        (cd "$package" && node scripts/hydrate-symlinks.js) || return 1
        chmod 755 "$package"/native/bin/*
    done
}

# The clock of a process on its own, for the fault suite. Fails where it is not to be had.
need_faketime() {
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || (need libfaketime libfaketime)
}

need_node() {
    command -v node >/dev/null && command -v npm >/dev/null || need Node nodejs npm
    [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || fail "Node 20 or later is needed."
}

# The packages of the tests, as their lock file says.
need_node_packages() {
    need_node
    cmp -s integration/package-lock.json integration/node_modules/installed && return
    (cd integration && npm ci --no-audit --no-fund --loglevel=error)
    cp integration/package-lock.json integration/node_modules/installed
}

# Supabase's clients for Python, in an environment of their own, as their lock file says.
need_python_clients() {
    local folder=integration/clients/python
    cmp -s "$folder/requirements.txt" "$folder/.venv/installed" && return
    python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || need Python python3 python3-venv
    python3 -m venv --clear "$folder/.venv"
    "$folder/.venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$folder/requirements.txt" ||
        fail "The Python clients could not be installed; see above."
    cp "$folder/requirements.txt" "$folder/.venv/installed"
}

# Sets CHROMIUM.
need_chromium() {
    CHROMIUM=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
        need Chromium chromium
        CHROMIUM=$(command -v chromium) || fail "Chromium is not found after its installation."
    }
    export CHROMIUM
}
