#!/bin/sh
# The codec's numbers in the documentation: about five hours on one core, to be interrupted at any time: the same command goes on
# with what is missing. docs/codec.md has its tables from these files.
set -eu
data=${1:?usage: runs/codec.sh CIFAR10-TEST.npz}
python=$(command -v .venv/bin/python || command -v python)
measure() { "$python" runs/codec.py cifar10-small --data "$data" "$@"; }
measure --images 1,10,100,1000,10000 --budgets "" --out out/codec-classical.json
measure --images 1,10,100,1000 --budgets 4,8,16,32,64 --out out/codec-thousand.json
measure --images 10000 --chain 1000 --budgets 4,8,16,32,64 --out out/codec-all.json
