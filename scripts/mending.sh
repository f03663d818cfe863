#!/usr/bin/env bash
# Loses directories of real nodes and mends them, round after round: founders, voters that are removed and added again,
# older copies that come back. Fails at the first answer that denies what was acknowledged, or the first write that is
# acknowledged by a node that was emptied.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=20
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    *) echo "usage: scripts/mending.sh [--rounds N]" >&2; exit 2 ;;
  esac
done
export DRAVE_MENDING_ROUNDS=$rounds
exec cargo test --release --no-fail-fast --test voters --test older_copies -- --nocapture --test-threads 1
