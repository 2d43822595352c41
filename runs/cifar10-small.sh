#!/usr/bin/env bash
# Trains the bundled model `cifar10-small` from scratch, measures it on the whole CIFAR-10 test set, and puts it into
# src/nelbo/assets. 640,000 images, so at the 270 a second that benchmarks/training_speed.py has seen on 2 cores about 40
# minutes. Interrupt it at any time: the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
run=out/cifar10-small

[ -e data/cifar10-train.npz ] && [ -e data/cifar10-test.npz ] || .venv/bin/nelbo data cifar10 --out data
.venv/bin/nelbo train --preset cifar10-small --data data/cifar10-train.npz --out "$run"
.venv/bin/python runs/bundle.py "$run" data/cifar10-test.npz src/nelbo/assets/cifar10-small
