#!/usr/bin/env bash
# Trains the bundled model `cifar10-small` from scratch in three stages, measures it on the whole CIFAR-10 test set, and
# puts it into src/nelbo/assets: 640,000 images of a small network, then 192,000 and 294,400 of the grown one, about
# three hours on one core. Interrupt it at any time: the same command goes on, in the stage and at the step it was in.
set -euo pipefail
cd "$(dirname "$0")/.."
train=data/cifar10-train.npz test=data/cifar10-test.npz
out=out/cifar10-small
# glibc's pages kept and huge: about a sixth faster on Linux (docs/log.md), ignored elsewhere.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456

[ -e $train ] && [ -e $test ] || .venv/bin/nelbo data cifar10 --out data

# 1. From scratch, AdamW, a cosine to zero.
.venv/bin/nelbo train --preset cifar10-small --data $train --out $out-1

# 2. Four more blocks, which begin as the identity; Muon at a constant rate.
[ -e $out-grown ] || .venv/bin/python runs/grow.py $out-1/model $out-grown \
    --set net.n_blocks_down=[2,2,1] --set net.n_blocks_up=[3,3,1]
.venv/bin/nelbo train --preset cifar10-small-grown --finetune $out-grown --data $train --out $out-2 --compile \
    --set decay=constant --set n_images=192000 --set ema_rate=0.999

# 3. The average of these weights, with a rate that falls to zero and other random numbers.
.venv/bin/nelbo train --preset cifar10-small-grown --finetune $out-2/model --data $train --out $out-3 --compile \
    --set seed=1

.venv/bin/python runs/bundle.py $out-3 $test src/nelbo/assets/cifar10-small --straight
.venv/bin/python runs/table.py cifar10-small --data $train
