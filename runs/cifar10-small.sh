#!/usr/bin/env bash
# Trains the bundled model `cifar10-small` from scratch, measures it on the whole CIFAR-10 test set, and puts it into
# src/nelbo/assets with its error table and its frozen form. 1,600,000 images in PROCESSES (default 2) processes of one
# thread each: under two hours on two cores. Interrupt it at any time: the same command goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
train=data/cifar10-train.npz test=data/cifar10-test.npz
run=out/cifar10-small
# glibc's pages kept and huge: about a sixth faster on Linux (docs/log.md), ignored elsewhere.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456

[ -e $train ] && [ -e $test ] || .venv/bin/nelbo data cifar10 --out data
OMP_NUM_THREADS=1 .venv/bin/torchrun --standalone --nproc_per_node="${PROCESSES:-2}" -m nelbo train \
    --preset cifar10-small --data $train --out $run --device cpu
.venv/bin/python runs/bundle.py $run $test src/nelbo/assets/cifar10-small --straight
.venv/bin/python runs/table.py cifar10-small --data $train
.venv/bin/python runs/frozen.py cifar10-small --data $train
