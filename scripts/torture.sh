#!/usr/bin/env bash
# Tortures real clusters on loopback, of three nodes and of five, and says whether they bore it.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=2 seed=$RANDOM
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    *) echo "usage: scripts/torture.sh [--minutes N] [--seed N]" >&2; exit 2 ;;
  esac
done
echo "two clusters, $minutes minutes in all, seed $seed"
export DRAVE_TORTURE_SECONDS=$((minutes * 30)) DRAVE_TORTURE_SEED=$seed
exec cargo test --release --test torture -- --nocapture
