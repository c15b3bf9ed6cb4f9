#!/usr/bin/env bash
# Time a training step on one CUDA GPU and test the kernels there, in less than ten minutes.
# Usage, in a clone of the repository: docs/gpu-check.sh [FOLDER]
set -euo pipefail

out="${1:-gpu-check}"
mkdir -p "$out"
pip install --quiet ".[test]" eai-sparsify
for tf32 in 0 1; do
    # read by torch when it starts: whether float32 products may be made in TF32
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=$tf32 saereg-bench speed --device cuda --suite training \
        --shape 2304,65536,64,4096 --out "$out/training-tf32-$tf32.json"
done
saereg-bench speed --device cuda --suite memory --shape 2304,65536,64,4096 --out "$out/memory.json"
saereg-bench speed --device cuda --suite screening --out "$out/screening.json" --plot "$out/screening.png"
# the tests of screening run on CUDA, too, where there is one
pytest tests/kernels
printf 'All is in %s.\n' "$out"
