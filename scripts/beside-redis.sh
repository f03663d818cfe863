#!/usr/bin/env bash
# The same redis-benchmark at a single redis-server that syncs each write as we do, at a single node of ours, and at
# the leader and a follower of a cluster of three, in turn, on one machine and one disk: requests a second, p50 and
# p99. Only the ratios mean something.
set -euo pipefail
cd "$(dirname "$0")/.."
requests=40000 rounds=2 dir=$(pwd)/target/beside-redis
while [ $# -gt 0 ]; do
  case $1 in
    --requests) requests=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --dir) dir=$2; shift 2 ;;
    *) echo "usage: scripts/beside-redis.sh [--requests N] [--rounds N] [--dir DIR]" >&2; exit 2 ;;
  esac
done
for tool in redis-server redis-benchmark redis-cli; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install redis-server redis-tools" >&2; exit 1; }
done
cargo build --release --quiet
drave=target/release/drave
rm -rf "$dir"; mkdir -p "$dir"/{n1,n2,n3,alone,redis}
base=17401 theirs=17399 alone=17411
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
peers=1=127.0.0.1:$base,2=127.0.0.1:$((base + 1)),3=127.0.0.1:$((base + 2))
for n in 1 2 3; do
  "$drave" serve --id $n --peers "$peers" --data "$dir/n$n" --log-level warn 2>"$dir/n$n.log" & pids+=($!)
done
"$drave" serve --id 1 --peers "1=127.0.0.1:$alone" --data "$dir/alone" --log-level warn 2>"$dir/alone.log" & pids+=($!)
redis-server --port $theirs --bind 127.0.0.1 --appendonly yes --appendfsync always --save "" --dir "$dir/redis" \
  --loglevel warning >"$dir/redis.log" & pids+=($!)
export DRAVE_ENDPOINTS=127.0.0.1:$base,127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2))
"$drave" put beside redis --timeout 20s >/dev/null
"$drave" put beside redis --timeout 20s --endpoints 127.0.0.1:$alone >/dev/null
until redis-cli -p $theirs ping >/dev/null 2>&1; do sleep 0.1; done
leader=$("$drave" status -o json | sed -n 's/.*"leader":\([0-9]*\).*/\1/p')
leads=$((base + 99 + leader)) follows=$((base + 99 + leader % 3 + 1))
echo "leader n$leader · three nodes beside $(redis-server --version | cut -d' ' -f3) with appendfsync always · $requests requests each"
printf '%5s %6s %-18s %-9s %10s %8s %8s\n' round conns test who ops/s p50 p99
for round in $(seq "$rounds"); do
  for clients in 50 256; do
    for who in "redis $theirs" "alone $((alone + 100))" "leader $leads" "follower $follows"; do
      read -r name port <<<"$who"
      redis-benchmark -p "$port" -t ping,set,get,incr,mset -n "$requests" -c "$clients" -r 100000 -d 128 --csv 2>/dev/null |
        tail -n +2 | tr -d '"' | while IFS=, read -r test rate _ _ p50 _ p99 _; do
          printf '%5s %6s %-18s %-9s %10.0f %8.2f %8.2f\n' "$round" "$clients" "$test" "$name" "$rate" "$p50" "$p99"
        done
    done
  done
done
