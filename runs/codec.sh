#!/bin/sh
# The codec's numbers in the documentation: about four hours on one core, or 20 minutes on sixteen.
set -eu
data=${1:?usage: runs/codec.sh CIFAR10-TEST.npz}
python runs/codec.py cifar10-small --data "$data" --images 1000 --budgets 4,8,16,32 --out out/codec.json
