"""One command in several processes, started by ``torchrun``; alone, the same code is one process of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from nelbo.errors import NelboError
from nelbo.runtime.device import choose_device

_PATIENCE = timedelta(hours=12)  # The first process evaluates while the others wait.


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        device: Where it computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def part(self, n_batch: int) -> range:
        """Returns this process's positions in a batch.

        Raises:
            NelboError: If the batch does not split evenly.
        """
        if n_batch % self.size:
            raise NelboError(f"a batch of {n_batch} does not split over {self.size} processes: change batch_size")
        share = n_batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def share(self, n: int) -> range:
        """Returns this process's positions among n, which need not split evenly: it may have none."""
        return range(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def mean(self, value: Float[Tensor, ""]) -> float:
        """Returns the mean of a number that each process has one of."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value.item() / self.size

    def total(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Returns the elementwise sum of numbers that each process has, the same in each of them."""
        if self.size == 1:
            return values.clone()
        there = values.to(self.device, copy=True)
        distributed.all_reduce(there)
        return there.to(values.device)

    def wait(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Yields this process's place in the world that ``torchrun`` describes in the environment.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; auto takes CUDA where there is one.

    Raises:
        NelboError: If CUDA is asked for and there is none.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size > 1:
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield World(rank, size, place)
    finally:
        if size > 1:
            distributed.destroy_process_group()
