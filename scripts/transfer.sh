#!/usr/bin/env bash
# Kills the receiver of a snapshot again and again: how much is sent twice?
set -euo pipefail
cd "$(dirname "$0")/.."
mib=1024 kills=10
while [ $# -gt 0 ]; do
  case $1 in
    --mib) mib=$2; shift 2 ;;
    --kills) kills=$2; shift 2 ;;
    *) echo "usage: scripts/transfer.sh [--mib N] [--kills N]" >&2; exit 2 ;;
  esac
done
echo "a snapshot of $mib MiB, whose receiver is killed $kills times"
export DRAVE_TRANSFER_MIB=$mib DRAVE_TRANSFER_KILLS=$kills
exec cargo test --release --test transfer -- --nocapture
