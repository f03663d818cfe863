#!/usr/bin/env bash
# Damages files of killed nodes in every way, while clients write, round after round. Prints how often
# the damage meant nothing, was repaired, or kept the node from starting.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=200
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    *) echo "usage: scripts/damages.sh [--rounds N]" >&2; exit 2 ;;
  esac
done
export DRAVE_DAMAGE_ROUNDS=$rounds
exec cargo test --release --no-fail-fast --test damages -- --nocapture
