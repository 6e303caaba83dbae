#!/usr/bin/env bash
# Writes requirements/*.txt from *.in: one resolution for all, so that every lock fits into one environment.
# Pins stay where they are unless UPGRADE=1. Digests only: no index, no address.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

common=(--quiet --python .venv/bin/python --no-header --no-annotate --no-emit-index-url --no-emit-find-links)
[ "${UPGRADE:-}" = 1 ] && common+=(--upgrade)
all=$(mktemp -p requirements all.XXXXXX.txt)
trap 'rm -f "$all"' EXIT

sets=(runtime contracts boa dev)
if [ "${UPGRADE:-}" != 1 ]; then
  # What is pinned now is what the joint resolution prefers.
  for name in "${sets[@]}"; do grep -hoE '^[a-z0-9][^ ]*==[^ ;]+' "requirements/$name.txt"; done | sort -u >"$all"
fi
inputs=("${sets[@]/#/requirements/}")
.uv/bin/uv pip compile "${common[@]}" "${inputs[@]/%/.in}" --output-file "$all"
for name in "${sets[@]}"; do
  .uv/bin/uv pip compile "${common[@]}" --generate-hashes --constraint "$all" "requirements/$name.in" --output-file "requirements/$name.txt"
done
for name in uv litellm; do
  .uv/bin/uv pip compile "${common[@]}" --generate-hashes "requirements/$name.in" --output-file "requirements/$name.txt"
done
for folder in . scripts/bench/ponder; do
  npm install --prefix "$folder" --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund
done
