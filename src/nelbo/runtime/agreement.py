"""One command in several processes, started by ``torchrun``: all of them go on, or all end with one line."""

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.runtime.processes import World

_T = TypeVar("_T")


class _SharedError(NelboError):
    """Something went wrong in one of the processes, and all of them know."""


def n_processes() -> int:
    """Returns how many processes ``torchrun`` started for this command; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def one_of_many(device: str = "cpu") -> Iterator["World"]:
    """Yields this process's place. Where all processes fail together, the first speaks for all.

    Without ``torchrun`` that is the only process, and what follows of agreement is nothing.

    ``torchrun`` terminates the other processes when one is lost (SIGTERM); what is half-written is removed then, too.
    """
    from nelbo.runtime.processes import join_world

    with join_world(device) as world:
        try:
            yield world
        except _SharedError:
            if world.is_first:
                raise
            sys.exit(0)  # With status 1, torchrun might end the first process before it has said what is wrong.


def agree(world: "World", action: Callable[[], _T]) -> _T:
    """Returns the result of an action that every process takes.

    Raises:
        NelboError: In all processes, if it fails in one.
    """
    if world.size == 1:
        return action()
    result, error = _attempt(action)
    _tell(world, error)
    return result  # pyright: ignore[reportReturnType]


def same(world: "World", value: bytes, what: str) -> None:
    """Raises NelboError in all processes unless all have the same value."""
    from torch import distributed

    values = [b""] * world.size
    with _peers():
        distributed.all_gather_object(values, sha256(value).digest())
    if len(set(values)) > 1:
        raise _SharedError(f"the processes have different {what}")


def collect(world: "World", value: _T) -> list[_T]:
    """Returns what every process has, by rank, the same in each of them."""
    if world.size == 1:
        return [value]
    from torch import distributed

    values: list[_T] = [value] * world.size
    with _peers():
        distributed.all_gather_object(values, value)
    return values


def in_turn(world: "World", parts: Iterable[_T]) -> Generator[_T, None, None]:
    """Yields on the first process the parts of all: the first ones by rank, then the second ones, and so on.

    The other processes yield nothing, and end when all parts are through; none is more than a part ahead. The first
    process must have as many parts as any. Close the generator if it is left early, so that the others end as well.

    Raises:
        NelboError: In all processes, if making a part fails in one.
    """
    mine = iter(parts)
    while True:
        part, error = _attempt(lambda: next(mine, None))
        if _tell(world, error, is_over=part is None):
            return
        try:
            yield from _gathered(world, part)
        except GeneratorExit:  # What consumes the parts has failed, which the others learn when they offer the next.
            with suppress(_SharedError):
                _tell(world, NelboError("the parts of this process were not wanted"))
            raise


def _gathered(world: "World", part: _T | None) -> Iterator[_T]:
    """Yields on the first process what all have."""
    from torch import distributed

    gathered: list[_T | None] = [None for _ in range(world.size)]
    with _peers():
        distributed.gather_object(part, gathered if world.is_first else None)
    yield from (each for each in gathered if each is not None)


def _attempt(action: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
    try:
        return action(), None
    except Exception as error:
        return None, error


def _tell(world: "World", error: Exception | None, is_over: bool = False) -> bool:
    """Tells all processes whether something went wrong, and returns whether it is over for the first.

    Raises:
        NelboError: If something went wrong in any of them. What is no user's mistake is raised where it happened.
    """
    from torch import distributed

    problem = None if error is None else _described(error, world.rank)
    states: list[tuple[str | None, bool]] = [(None, False)] * world.size
    with _peers():
        distributed.all_gather_object(states, (problem, is_over))
    if error is not None and not isinstance(error, NelboError | OSError):
        raise error
    for message, _ in states:
        if message is not None:
            raise _SharedError(message)
    return states[0][1]


def _described(error: Exception, rank: int) -> str:
    text = str(error) if isinstance(error, NelboError | OSError) else repr(error)
    return text if rank == 0 or isinstance(error, _SharedError) else f"process {rank}: {text}"


@contextmanager
def _peers() -> Iterator[None]:
    """Says in one line that another process is gone."""
    try:
        yield
    except RuntimeError:
        raise NelboError(
            "another process of this run has ended, so this one cannot go on: see what that one said"
        ) from None
