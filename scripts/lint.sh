#!/usr/bin/env bash
# Static checks. Runs them all and fails at the end, so that one run shows everything.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=()

check() { # name, command…
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

vyper_contracts() { # a warning counts as an error
  local file status=0
  for file in contracts/*.vy; do
    vyper -W error -f abi "$file" >/dev/null || { echo "$file"; status=1; }
  done
  return $status
}

locks() { # locks hold versions and digests, never where things were fetched
  ! grep -nE '://|^-|"resolved"' requirements/*.txt && ! grep -n '"resolved"' package-lock.json scripts/bench/ponder/package-lock.json
}

shell_syntax() {
  local file status=0
  for file in scripts/*.sh scripts/activate scripts/bin/* .ci/run; do bash -n "$file" || status=1; done
  for file in scripts/*.js; do node --check "$file" || status=1; done
  return $status
}

typed=()
for name in protocol provider consumer indexer scripts tests clawmarket_cli.py; do
  [ -e "$name" ] && typed+=("$name")
done

check "ruff" ruff check .
check "format (make format mends it)" ruff format --check --quiet .
check "mypy" mypy "${typed[@]}"
check "vyper" vyper_contracts
check "locks" locks
check "shell and JavaScript" shell_syntax

if [ ${#failed[@]} -gt 0 ]; then
  printf 'lint failed:'
  printf ' %s;' "${failed[@]}"
  echo
  exit 1
fi
echo "lint passed"
