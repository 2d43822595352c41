#!/usr/bin/env bash
# The figures of docs/schedules.md: the bundled model's schedules, and those of a diffusers DDPM trained here.
# Needs CIFAR-10 in data (make data). About ten minutes on 2 cores for the first, half an hour for all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
out=${1:-out/schedules}

# By the error table that comes with the model.
$python runs/schedules.py cifar10-small --table src/nelbo/assets/cifar10-small/errors.safetensors \
    --test data/cifar10-test.npz --test-images 48 --passes 16 --out "$out/cifar10-small"
$python runs/sample_quality.py cifar10-small --train data/cifar10-train.npz --test data/cifar10-test.npz \
    --samples 256 --epochs 1 --out "$out/quality"

# Folders of models that runs/diffusers-ddpm.py has trained, as further arguments: FOLDER TRAIN TEST.
if [ $# -ge 4 ]; then
    $python runs/schedules.py "$2" --train "$3" --test "$4" --images 16 --test-images 32 --budgets 8,16,32 --passes 8 \
        --out "$out/ddpm"
fi
