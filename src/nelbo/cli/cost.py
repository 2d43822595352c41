"""What a run will cost, said before it begins: network calls, and the time they take by the clock."""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nelbo.models.interface import DiffusionModel

MIN_CALLS = 20  # A run of fewer calls on an image is measured by running it.
LONG = 60.0  # Seconds from which on a run's cost is said.
TRIAL = 2.0  # Seconds that a trial call on a batch may take.


def say_cost(model: "DiffusionModel", n_calls: int, batch_size: int, precision: str, quiet: bool = False) -> None:
    """Says on standard error how many network calls a run of this process takes and how long, if over a minute.

    Args:
        model: The model.
        n_calls: Calls, each on one image.
        batch_size: Images that are together in a call.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        quiet: Whether to say and measure nothing.
    """
    from nelbo.runtime.meter import duration

    if quiet or n_calls < MIN_CALLS:
        return
    seconds = n_calls * _seconds_per_call(model, min(batch_size, n_calls), precision)
    if seconds > LONG:
        print(f"{n_calls:,} network calls on an image, about {duration(seconds)}", file=sys.stderr)


def _seconds_per_call(model: "DiffusionModel", batch_size: int, precision: str) -> float:
    """Returns the seconds a call on one image takes, as one of a batch where that is soon measured."""
    from nelbo.models.precision import precision_of
    from nelbo.runtime.device import set_precision

    resolved = precision_of(model, precision)
    set_precision(model.eval(), model.device, resolved)
    _seconds(model, 1, resolved)  # The first call of all prepares.
    alone = _seconds(model, 1, resolved)
    n = min(batch_size, int(TRIAL / max(alone, 1e-6)))
    if n < 2:
        return alone
    return min(_seconds(model, n, resolved) for _ in range(2)) / n


def _seconds(model: "DiffusionModel", n: int, precision: str) -> float:
    import torch

    from nelbo.runtime.device import autocast

    gamma = model.noise_schedule.gamma_1.detach().to(model.device).expand(n)
    labels = torch.zeros(n, dtype=torch.int64, device=model.device) if model.n_classes else None
    z = torch.zeros(n, *model.image_shape, device=model.device)
    started = time.perf_counter()
    with torch.no_grad(), autocast(model.device, precision):  # pyright: ignore[reportArgumentType]
        output, _ = model.given(labels).predict(z, gamma)
        output.sum().item()  # Waits for the device.
    return time.perf_counter() - started
