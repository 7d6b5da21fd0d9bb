#!/bin/sh
# The first hour of a new user, from a fresh clone: `make first-hour`. Takes some minutes, and needs access to package registries.
# Started as root it runs as the user `nobody`; PYTHON names an interpreter that this user can execute.
set -eu
trap 'exit 1' INT TERM

fail() { echo "FAILED: $1"; exit 1; }
step() { echo; echo "== $1 ($(($(date +%s) - began)) s)"; }

root=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${1:-}" != inside ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    git clone --quiet --depth 1 "file://$root" "$folder/storefront"
    if [ "$(id -u)" = 0 ]; then
        chown -R nobody "$folder"
        runuser -u nobody -- env HOME="$folder" TMPDIR="$folder" sh "$folder/storefront/tests/first_hour/from_clone.sh" inside
    else
        TMPDIR=$folder sh "$folder/storefront/tests/first_hour/from_clone.sh" inside
    fi
    exit
fi

cd "$root"
began=$(date +%s)
python=${PYTHON:-python3}
port=$($python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
server=http://127.0.0.1:$port
get() { curl --silent --fail --max-time 30 "$@"; }

step "make run"
make run PYTHON="$python" SERVE="--port $port" > run.log 2>&1 &
make_run=$!
trap 'kill "$make_run" 2>/dev/null; wait' EXIT
until get "$server/readyz" > /dev/null; do
    kill -0 "$make_run" 2> /dev/null || { cat run.log; fail "the server did not start"; }
    sleep 1
done

step "a query, the pages, a page of another port"
query='{"query": "{ config(by: { slug: \"nordic-oak-living\" }) { products(search: \"oak\", first: 3) { nodes { title images } } } }"}'
get "$server/graphql" -H 'content-type: application/json' -d "$query" | grep -q '"title"' || fail "no products"
get "$server/graphql" -H 'accept: text/html' | grep -q '01_store' || fail "no examples in GraphiQL"
get "$server/dashboard" | grep -q 'Your stores' || fail "no dashboard"
get --include "$server/graphql" -H 'origin: http://localhost:5173' -H 'content-type: application/json' -d "$query" |
    grep -qi '^access-control-allow-origin: http://localhost:5173' || fail "a page of Vite is refused"

step "storefront --version, doctor"
.venv/bin/storefront --version
.venv/bin/storefront doctor --development || fail "the set-up of make run is not well"
if .venv/bin/storefront doctor > doctor.log; then fail "the demo is not fit for production"; fi
for setting in DATABASE_URL SECRET ENCRYPTION_KEYS ALLOWED_ORIGINS PUBLIC_URL TRUSTED_PROXIES RATE_LIMIT_ADDRESS S3_BUCKET; do
    grep -q "STOREFRONT_$setting" doctor.log || fail "the doctor does not name STOREFRONT_$setting"
done

step "stop"
kill "$make_run"
wait "$make_run" || true
trap - EXIT

step "the operations of docs/, Chromium, the wheel, dump and restore"
make test TESTS="tests/first_hour tests/test_wheel.py tests/test_backups.py tests/test_doctor.py tests/clients/test_examples.py \
    tests/serving/test_graphiql_in_browser.py tests/analytics/test_dashboard.py"

step "make docs"
make docs

step "All of it works"
