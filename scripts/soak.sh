#!/usr/bin/env bash
# A cluster under load for a long time: are disks and memory bounded, does who was away come back?
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=60
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    *) echo "usage: scripts/soak.sh [--minutes N]" >&2; exit 2 ;;
  esac
done
echo "three nodes under load for $minutes minutes"
export DRAVE_SOAK_SECONDS=$((minutes * 60))
exec cargo test --release --test soak -- --nocapture
