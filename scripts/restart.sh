#!/usr/bin/env bash
# Kills a node whose log holds all it was told, and starts it again: how soon does it serve?
set -euo pipefail
cd "$(dirname "$0")/.."
entries=1000000 nodes=1
while [ $# -gt 0 ]; do
  case $1 in
    --entries) entries=$2; shift 2 ;;
    --nodes) nodes=$2; shift 2 ;;
    *) echo "usage: scripts/restart.sh [--entries N] [--nodes N]" >&2; exit 2 ;;
  esac
done
echo "$entries entries of 128 bytes, $nodes nodes"
export DRAVE_RESTART_ENTRIES=$entries DRAVE_RESTART_NODES=$nodes
exec cargo test --release --test restart -- --nocapture
