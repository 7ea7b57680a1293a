#!/usr/bin/env bash
# `make autobahn`: the WebSocket crate's echo server against the Autobahn suite (groups 1 to 7 and 10,
# or the patterns given as arguments). The suite runs on Python 2.7 only; where there is none, this
# says so and ends with 3.
set -eu
cd "$(dirname "$0")/../.."
. integration/setup/install.sh

# The last one on PyPI.
SUITE=autobahntestsuite==25.10.1
FOLDER=integration/.autobahn
LACKS_PYTHON=3

main() {
    need_rust
    find_python || {
        say "the Autobahn suite is SKIPPED: it needs Python 2.7 (as python2.7, or pyenv install 2.7.18)"
        return $LACKS_PYTHON
    }
    need_suite
    check "$@"
    [ $# -gt 0 ] || set -- '1.*' '2.*' '3.*' '4.*' '5.*' '6.*' '7.*' '10.*'
    cargo build --quiet -p walcast-websocket --example echo
    local echo_server
    echo_server=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/examples/echo
    run "$echo_server" "$@"
}

# Given a pattern that no case has, the suite waits for ever.
check() {
    local pattern
    for pattern in "$@"; do
        [[ $pattern =~ ^([1-79]|10)\.(\*|[0-9]+(\.(\*|[0-9]+))?)$ ]] ||
            fail "'$pattern' is no group of cases; there are 1 to 7, 9 and 10, as in '9.*', '6.4.*' or '2.3'."
    done
}

# Sets PYTHON.
find_python() {
    local found
    for found in "$(command -v python2.7)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
        if [ -n "$found" ] && "$found" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
            PYTHON=$found
            return
        fi
    done
    return 1
}

need_suite() {
    [ "$(cat "$FOLDER/installed" 2>/dev/null)" = "$SUITE" ] && return
    say "installing the Autobahn suite"
    rm -rf "$FOLDER"
    "$PYTHON" -m pip install -qq --disable-pip-version-check \
        --target "$FOLDER/packages" "$SUITE" || fail "The Autobahn suite could not be installed; see above."
    printf %s "$SUITE" >"$FOLDER/installed"
}

# The suite fails a case when its server does not answer for a second, which happens on a busy machine:
# here it waits for a minute.
PATIENT='
import site
site.addsitedir("packages")
from autobahntestsuite import fuzzing, wstest
kill_after = fuzzing.FuzzingProtocol.killAfter
fuzzing.FuzzingProtocol.killAfter = lambda protocol, delay: kill_after(protocol, max(delay, 60))
wstest.run()
'
OPTIONS='{"openHandshakeTimeout": 60, "closeHandshakeTimeout": 60, "serverConnectionDropTimeout": 60}'

# The server takes a free port, and says which.
run() {
    local server=$1 log address
    shift
    log=$(mktemp)
    "$server" 127.0.0.1:0 >"$log" &
    ECHO_SERVER=$! LOG=$log
    trap 'kill "$ECHO_SERVER" 2>/dev/null; rm -f "$LOG"' EXIT
    until address=$(sed -n 's/^listening on //p' "$log") && [ -n "$address" ]; do
        kill -0 "$ECHO_SERVER" || fail "The echo server did not start."
        sleep 0.1
    done
    rm -rf "$FOLDER/reports"
    printf '{"outdir": "reports", "options": %s, "servers": [{"agent": "walcast", "url": "ws://%s"}], "cases": [%s], "exclude-cases": []}' \
        "$OPTIONS" "$address" "$(printf '"%s",' "$@" | sed 's/,$//')" >"$FOLDER/spec.json"
    (cd "$FOLDER" && timeout 900 "$PYTHON" -c "$PATIENT" -m fuzzingclient -s spec.json >run.log 2>&1) ||
        fail "The suite ended with an error, or not within fifteen minutes; see $FOLDER/run.log."
    verdict "$FOLDER/reports/index.json"
}

# Counts, and the cases that failed; those must be none.
verdict() {
    "$PYTHON" - "$1" <<'PYTHON'
import collections, json, sys
cases = json.load(open(sys.argv[1]))["walcast"]
good = ("OK", "NON-STRICT", "INFORMATIONAL")
counts = collections.Counter(case["behavior"] for case in cases.values())
failed = sorted(name for name, case in cases.items()
                if case["behavior"] not in good or case["behaviorClose"] not in good)
print("Autobahn: %d cases; %s" % (len(cases), ", ".join("%s %d" % one for one in sorted(counts.items()))))
for name in failed:
    print("  failed: %s (%s, close %s)" % (name, cases[name]["behavior"], cases[name]["behaviorClose"]))
sys.exit(1 if failed or not cases else 0)
PYTHON
}

main "$@"
