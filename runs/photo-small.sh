#!/usr/bin/env bash
# Trains `photo-small` from photographs in Debian packages: at a constant rate for IMAGES crops of 64x64, then along a
# line to zero for DECAY crops. Interrupt it at any time: the same command goes on where it was. To see more crops than
# an earlier run, fine-tune its model/ with the preset at a constant rate, then do the second part again.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=data/packages train=data/photo-train.npz test=data/photo-held-out.npz
constant=out/photo-small-constant run=out/photo-small
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456
export OMP_NUM_THREADS="${THREADS:-1}"

for package in enlightenment-data endless-sky-data lomiri-wallpapers-16.04 mate-backgrounds \
    plasma-workspace-wallpapers; do
    [ -e $packages/$package ] && continue
    mkdir -p $packages/deb
    (cd $packages/deb && apt-get download $package)
    dpkg-deb -x $packages/deb/"$package"_*.deb $packages/$package.new
    mv $packages/$package.new $packages/$package
done
[ -e $train ] && [ -e $test ] || .venv/bin/python runs/photo_crops.py $packages --out data
options=(--preset photo-small --data $train --test $test --device cpu --checkpoint-every 200)
[ -e $run ] || .venv/bin/nelbo train "${options[@]}" --set n_images="${IMAGES:-100000}" --out $constant
.venv/bin/nelbo train "${options[@]}" --finetune $constant/model --set decay=linear \
    --set n_images="${DECAY:-25000}" --out $run
