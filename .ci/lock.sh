#!/bin/sh
# Write requirements.lock again: the newest versions that pyproject.toml allows, for every platform and Python
# version at once, with hashes. It names no index: where packages come from is a matter of the machine.
set -eu
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "lock: uv is needed (pip install uv)." >&2; exit 1; }

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    echo "# Made by 'make lock' from pyproject.toml with the extras cpu, dev, eval, fast and plot. Do not edit."
    # --fork-strategy fewest: one version of a package for all Python versions wherever there is one.
    uv pip compile pyproject.toml --quiet --upgrade --extra cpu --extra dev --extra eval --extra fast --extra plot \
        --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links
} >"$new"
cat "$new" >requirements.lock
