#!/usr/bin/env bash
# What taking a snapshot, and sending one, costs those who write meanwhile: windows of the same load with and
# without, in turn.
set -euo pipefail
cd "$(dirname "$0")/.."
keys=1000000 rounds=3 seconds=8 rate=3000
while [ $# -gt 0 ]; do
  case $1 in
    --keys) keys=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    --rate) rate=$2; shift 2 ;;
    *) echo "usage: scripts/under-load.sh [--keys N] [--rounds N] [--seconds N] [--rate N, 0 for closed loop]" >&2; exit 2 ;;
  esac
done
echo "$keys keys of 1 KiB, $rounds rounds of $seconds s, $rate writes a second (0: closed loop)"
export DRAVE_LOAD_KEYS=$keys DRAVE_LOAD_ROUNDS=$rounds DRAVE_LOAD_SECONDS=$seconds DRAVE_LOAD_RATE=$rate
exec cargo test --release --test under_load -- --nocapture
