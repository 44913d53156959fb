#!/usr/bin/env bash
# Writes the hash-locked requirements of both images from pyproject.toml; needs `uv`. Run it after a change of the dependencies.
# torch and what its CUDA builds pin exactly (nvidia-*, triton, cuda-*) are installed by version from PyTorch's index, without hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT

lock() { # VARIANT PYTHON TORCH [OPTION …]
    local variant=$1 python=$2
    echo "torch==$3" > "$overrides"
    shift 3
    uv pip compile pyproject.toml --quiet --python-version "$python" --python-platform x86_64-manylinux_2_28 --override "$overrides" \
        --generate-hashes --no-annotate --custom-compile-command docker/lock.sh --no-emit-package torch --no-emit-package setuptools "$@" \
        | awk '/^(nvidia-|triton|cuda-)/ { skip = 1 } /^[a-z]/ && !/^(nvidia-|triton|cuda-)/ { skip = 0 } !skip' \
        > "docker/requirements-$variant.txt"
}

lock gpu 3.10 2.5.1 --constraint <(grep -vE "^(torch|sympy)==" constraints.txt) # torch 2.5.1 pins its sympy
lock cpu 3.11 2.13.0 --constraint constraints.txt
echo "cyclonedx-bom==7.3.0" | uv pip compile - --quiet --python-version 3.10 --generate-hashes --no-annotate \
    --custom-compile-command docker/lock.sh > docker/requirements-sbom.txt
