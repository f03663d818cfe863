#!/usr/bin/env bash
# Forty pipelined Redis connections, and twenty over HTTP, through two hundred transfers of the leadership and a
# hundred deaths of leaders: their commands must take effect in order.
set -euo pipefail
cd "$(dirname "$0")/.."
connections=40 transfers=200 deaths=100
while [ $# -gt 0 ]; do
  case $1 in
    --connections) connections=$2; shift 2 ;;
    --transfers) transfers=$2; shift 2 ;;
    --deaths) deaths=$2; shift 2 ;;
    *) echo "usage: scripts/order.sh [--connections N] [--transfers N] [--deaths N]" >&2; exit 2 ;;
  esac
done
export DRAVE_ORDER_CONNECTIONS=$connections DRAVE_ORDER_TRANSFERS=$transfers DRAVE_ORDER_DEATHS=$deaths
exec cargo test --release --test order -- --nocapture
