#!/usr/bin/env bash
# Sends a million malformed requests to each port of a cluster, and measures the latency of honest writes meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
requests=1000000 rate=10000
while [ $# -gt 0 ]; do
  case $1 in
    --requests) requests=$2; shift 2 ;;
    --rate) rate=$2; shift 2 ;;
    *) echo "usage: scripts/malformed.sh [--requests N] [--rate N-A-SECOND]" >&2; exit 2 ;;
  esac
done
echo "$requests requests to each port, $rate a second at most"
export DRAVE_MALFORMED=$requests DRAVE_MALFORMED_RATE=$rate
exec cargo test --release --test malformed -- --nocapture
