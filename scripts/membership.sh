#!/usr/bin/env bash
# Replaces all members of a cluster under load, and prints what each phase costs those who write.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=10 rate=10000
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2; shift 2 ;;
    --rate) rate=$2; shift 2 ;;
    *) echo "usage: scripts/membership.sh [--seconds N a phase] [--rate N writes a second]" >&2; exit 2 ;;
  esac
done
export DRAVE_MEMBERS_SECONDS=$seconds DRAVE_MEMBERS_RATE=$rate
exec cargo test --release --test membership under_load -- --nocapture --test-threads 1
