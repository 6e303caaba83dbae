#!/usr/bin/env bash
# Installs what is missing, and nothing when all is there: Debian packages, uv, .venv, node_modules, the solc shim.
# Each step leaves a stamp that holds the digest of its inputs; a step runs again when they change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

PYTHON=/usr/bin/python3.11
NODE_MAJOR=20
LOCKS=(requirements/runtime.txt requirements/contracts.txt requirements/boa.txt requirements/dev.txt)
export UV_CACHE_DIR=${UV_CACHE_DIR:-$HOME/.cache/clawmarket/uv}

digest() { { printf '%s\n' "$root"; cat "$@"; } | sha256sum | cut -d' ' -f1; }
is_done() { [ "$(cat ".stamps/$1" 2>/dev/null)" = "$2" ]; }
say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'set-up: %s\n' "$*" >&2; exit 1; }

# Runs a command; while it is silent, says every 15 s that it goes on.
with_heartbeat() {
  local what=$1 start=$SECONDS beat status=0
  shift
  # `read` from a pipe that never speaks waits without a child that would outlive us.
  (exec 9>&- && exec 8<> <(:) && while ! read -r -t 15 -u 8; do
    printf '    … %s, %d s\n' "$what" $((SECONDS - start)) >&2
  done) &
  beat=$!
  "$@" >&2 9>&- || status=$?
  kill "$beat" 2>/dev/null || true
  wait "$beat" 2>/dev/null || true
  [ "$status" -eq 0 ] || die "$what failed (exit $status)"
  say "$what: $((SECONDS - start)) s"
}

install_debian() {
  local missing=() name
  command -v dpkg-query >/dev/null || { say "no dpkg here: install these yourself: $(grep -v '^#' requirements/apt.txt | xargs)"; return; }
  while read -r name; do
    dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done < <(grep -v '^#' requirements/apt.txt)
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || die "run as root once: apt-get install ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local install=(apt-get install -y -qq --no-install-recommends "${missing[@]}")
  say "Debian packages: ${missing[*]}"
  "${install[@]}" >/dev/null 2>&1 && return
  with_heartbeat "Debian package lists" apt-get update -qq
  with_heartbeat "Debian packages" "${install[@]}"
}

install_uv() {
  [ -x "$PYTHON" ] || die "$PYTHON is missing: Debian 12's python3.11 is needed"
  "$PYTHON" -m venv --clear .uv
  with_heartbeat "uv" .uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
}

install_python() {
  local uv=.uv/bin/uv
  [ -x .venv/bin/python ] || "$uv" venv --quiet --python "$PYTHON" .venv
  with_heartbeat "Python packages (a machine's first time compiles llama-cpp-python, about 4 minutes)" \
    "$uv" pip sync --quiet --python .venv/bin/python --require-hashes "${LOCKS[@]}"
  with_heartbeat "this project, editable" "$uv" pip install --python .venv/bin/python --quiet --no-deps \
    --no-build-isolation --config-settings editable_mode=compat --editable .
}

install_node() {
  command -v npm >/dev/null || die "npm is missing: Node $NODE_MAJOR or later is needed"
  local major
  major=$(node --version | sed 's/^v\([0-9]*\).*/\1/')
  [ "$major" -ge "$NODE_MAJOR" ] || die "Node $NODE_MAJOR or later is needed, this is $(node --version)"
  with_heartbeat "Node packages" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  # Ape reads at most 500 files of a dependency and then drops contracts silently; these are OpenZeppelin's artefacts.
  rm -rf node_modules/@openzeppelin/contracts/build
}

install_solc() {
  mkdir -p .solcx
  ln -sf ../scripts/solc-shim.js .solcx/solc-v0.8.30
  .solcx/solc-v0.8.30 --version >/dev/null || die "the solc shim does not start"
}

install_model() {
  with_heartbeat "the default model with 8-bit weights" .venv/bin/python -m scripts.default_model
}

step() { # name, a file it makes, its inputs…
  local name=$1 made=$2 key
  shift 2
  key=$(digest scripts/setup.sh "$@")
  if is_done "$name" "$key" && [ -e "$made" ]; then return 0; fi
  "install_$name"
  [ -e "$made" ] || die "$name: $made was not made"
  printf '%s\n' "$key" >".stamps/$name"
}

mkdir -p .stamps
exec 9>.stamps/lock
flock 9 # two runs at once: the second waits and then finds all done
step debian requirements/apt.txt requirements/apt.txt
step uv .uv/bin/uv requirements/uv.txt
step python .venv/bin/ape "${LOCKS[@]}" pyproject.toml
step model .cache/models/SmolLM2-135M-Instruct.Q8_0.gguf requirements/runtime.txt \
  scripts/default_model.py provider/models/conversion.py
step node node_modules/.bin/anvil package.json package-lock.json .npmrc
step solc .solcx/solc-v0.8.30 scripts/solc-shim.js
