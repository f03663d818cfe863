#!/usr/bin/env bash
# What encryption costs: the same load on a cluster without TLS and on one with, in turn, on one machine.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=3 seconds=5 dir=$(pwd)/target/encrypted
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    *) echo "usage: scripts/encrypted.sh [--rounds N] [--seconds N]" >&2; exit 2 ;;
  esac
done
command -v openssl >/dev/null || { echo "openssl is missing" >&2; exit 1; }
cargo build --release --quiet
drave=target/release/drave
rm -rf "$dir"; mkdir -p "$dir"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=authority \
  -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node \
  -keyout "$dir/node.key" -out "$dir/node.csr" 2>/dev/null
openssl x509 -req -in "$dir/node.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 1 \
  -extfile <(printf 'subjectAltName=IP:127.0.0.1') -out "$dir/node.pem" 2>/dev/null
keys=(--tls-ca "$dir/ca.pem" --tls-cert "$dir/node.pem" --tls-key "$dir/node.key")
run() { # name, base port, how clients speak, how nodes do
  local name=$1 base=$2 speak=$3; shift 3
  pids=()
  for n in 1 2 3; do
    "$drave" serve --id $n --peers "1=127.0.0.1:$base,2=127.0.0.1:$((base + 1)),3=127.0.0.1:$((base + 2))" \
      --data "$dir/$name/n$n" --resp off --log-level error "$@" 2>/dev/null & pids+=($!)
  done
  # shellcheck disable=SC2086
  DRAVE_ENDPOINTS=127.0.0.1:$base "$drave" bench put --clients 16 --inflight 16 --duration "${seconds}s" \
    --timeout 20s -o json $speak | sed -n 's/.*"ops_per_s":\([0-9.]*\).*"p50_us":\([0-9.]*\).*"p99_us":\([0-9.]*\).*/\1 \2 \3/p' |
    { read -r rate p50 p99; printf '%-6s %10.0f/s  p50 %8.0f  p99 %8.0f us\n' "$name" "$rate" "$p50" "$p99"; }
  kill "${pids[@]}"; wait 2>/dev/null || true
  rm -rf "${dir:?}/$name"
}
echo "256 outstanding, $rounds rounds of $seconds s each"
for _ in $(seq "$rounds"); do
  run plain 17421 ""
  run tls 17431 "--tls-ca $dir/ca.pem" "${keys[@]}"
done
