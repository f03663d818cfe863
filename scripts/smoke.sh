#!/usr/bin/env bash
# A smoke test of a program as it was built: a cluster, writes and reads, the death of its leader, and its files.
# Takes a few seconds. Fails at the first answer that differs.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in
  -*) echo "usage: scripts/smoke.sh [PROGRAM, else target/release/drave]" >&2; exit 2 ;;
esac
drave=${1:-${CARGO_TARGET_DIR:-target}/release/drave}
# Settings of the caller's environment would change what is tested.
for name in "${!DRAVE_@}"; do unset "$name"; done
# Below the ports that tests use.
base=$((10000 + $$ % 170 * 10))
export DRAVE_ENDPOINTS=127.0.0.1:$base,127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2))
dir=$(mktemp -d) demo='' said=''
end() {
  # Nodes end with the demo.
  if [ -n "$demo" ] && kill "$demo" 2>/dev/null; then wait "$demo" || true; fi
  rm -rf "$dir"
}
trap end EXIT
fail() { echo "smoke test: $*" >&2; if [ -f "$dir/log" ]; then tail -n 30 "$dir/log" >&2; fi; exit 1; }
expect() { # pattern, command …
  local pattern=$1
  shift
  said=$(timeout 60 "$drave" "$@" 2>&1) || fail "drave $* exits with $?: $said"
  # shellcheck disable=SC2053
  [[ $said == $pattern ]] || fail "drave $* prints '$said' instead of '$pattern'"
}
expect '*Usage: *' sim --help
[[ $said != *--mutant* ]] || fail "$drave has the feature mutants, which breaks safety rules on purpose"
"$drave" demo --plain --base-port "$base" --dir "$dir/demo" >"$dir/log" 2>&1 & demo=$!
expect 'ok *@*' put lunch noodles
expect noodles get lunch
expect 1 incr visits
expect 'killed n? (was leader of term *)' kill leader --base-port "$base"
expect noodles get lunch
expect 2 incr visits
# The demo starts the dead node again.
until [[ $(timeout 60 "$drave" status 2>&1) == *n1*n2*n3* ]]; do
  [ $SECONDS -lt 120 ] || fail "the killed node is not back"
  sleep 0.2
done
nodes=$(pgrep -P "$demo") || fail "the demo has no nodes"
kill "$demo"
wait "$demo" || fail "the demo exits with $?"
demo=''
for node in $nodes; do
  if kill -0 "$node" 2>/dev/null; then fail "node process $node is left behind"; fi
done
data=("$dir"/demo/n1 "$dir"/demo/n2 "$dir"/demo/n3)
expect '*put*lunch*noodles*' dump --full "${data[@]}"
expect '* 0 broken · 0 damaged' check "${data[@]}"
echo "smoke test: ok"
