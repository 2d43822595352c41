"""The training loop: from a configuration and images to a run folder, resumable after any interruption.

A step is a function of the state (weights, their average, the optimiser's moments) and of (seed, rank, step), from
which all its randomness derives. Running on after a resumption is therefore the same computation as never having
stopped.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nelbo.data.images import Images
from nelbo.diffusion.draws import to_device, training_draws
from nelbo.errors import NelboError
from nelbo.models.augmentation import augmented
from nelbo.models.vdm import VDM
from nelbo.runtime.device import Precision, autocast, resolve_precision, set_precision
from nelbo.runtime.processes import World
from nelbo.runtime.randomness import generator
from nelbo.train.batches import draw_codes, read_batch, read_labels
from nelbo.train.checkpoint import Checkpoints
from nelbo.train.config import TrainConfig
from nelbo.train.ema import WeightAverage
from nelbo.train.finetune import take_over
from nelbo.train.muon import Joint, Muon, inner_kernels
from nelbo.train.objective import Objective
from nelbo.train.weighted import WeightedObjective


@dataclass(frozen=True)
class Intervals:
    """How often a run does what does not change its result, in steps.

    Attributes:
        log: Writes a line of metrics.
        checkpoint: Writes the training state.
        evaluate: Measures the bound on the test set, draws samples, writes the model folder.
    """

    log: int = 50
    checkpoint: int = 500
    evaluate: int = 2000

    def __post_init__(self) -> None:
        """Raises NelboError if one is not positive."""
        for name, steps in vars(self).items():
            if steps < 1:
                raise NelboError(f"the interval between one {name} and the next is at least 1 step, got {steps}")


class Trainer:
    """The state of a run and one step of it.

    Args:
        config: The run.
        data: The images to train on.
        world: This process.
        compiled: Whether to compile the objective.
        start: A model whose weights to begin with; None for new ones.
    """

    def __init__(
        self, config: TrainConfig, data: Images, world: World, compiled: bool = False, start: VDM | None = None
    ) -> None:
        self.config, self.data, self.world = config, data, world
        self.precision: Precision = resolve_precision(config.precision, world.device)
        torch.manual_seed(_torch_seed("initial weights", config.seed))
        self.model = VDM(config.model)
        if start is not None:
            take_over(self.model, start)
        set_precision(self.model, world.device, self.precision)
        self.average = WeightAverage(self.model, config.ema_rate)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        objective = _objective(self.model, config)
        self.importance = objective.importance if isinstance(objective, WeightedObjective) else None
        of_squares = objective.of_squares() if isinstance(objective, Objective) else []
        self.clipped = [group for group in _split(self.parameters, of_squares) if group]
        self.optimizer, self.rates = optimizer(self.model, config)
        self.objective = _wrapped(objective, world, compiled)
        self.step = 0
        self.seconds = self.last_seconds = 0.0  # of all steps, and of the last one
        self.gradient_norm = 0.0  # of the last step, before it was clipped
        self.losses: list[float] = []  # of the steps since the last line of metrics

    def run_step(self) -> float:
        """Makes one step; returns the whole batch's loss in bits per dimension.

        Raises:
            NelboError: If the gradient is not finite.
        """
        started = time.perf_counter()
        self.model.train()
        loss = self._loss()
        self.optimizer.zero_grad()
        loss.backward()
        self._clip()
        for group, factor in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = learning_rate(self.config, self.step) * factor
        self.optimizer.step()
        if self.importance is not None:
            self.importance.update(self.world)
        self.step += 1
        self.average.update(self.model, self.step)
        self.last_seconds = time.perf_counter() - started
        self.seconds += self.last_seconds
        self.losses.append(self.world.mean(loss.detach()))
        return self.losses[-1]

    def state(self) -> dict[str, Any]:
        """Returns all that a later process needs to go on."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({"importance": self.importance.state_dict()} if self.importance is not None else {}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up a state, the inverse of :meth:`state`."""
        self.step, self.seconds, self.losses = state["step"], state["seconds"], list(state["losses"])
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.importance is not None:
            self.importance.load_state_dict(state["importance"])

    def _clip(self) -> None:
        """Clips the gradient of each function that training descends, the bound and the mean square of its estimate."""
        largest = math.inf if self.config.clip_norm is None else self.config.clip_norm
        norms = [nn.utils.clip_grad_norm_(parameters, largest).item() for parameters in self.clipped]
        self.gradient_norm = norms[0]
        for norm in norms:
            if not math.isfinite(norm):
                raise NelboError(
                    f"training diverged at step {self.step} (gradient norm {norm}): lower learning_rate or "
                    "clip_norm and choose another --out; the last checkpoint, if there is one, is untouched"
                )

    def _loss(self) -> torch.Tensor:
        config, world = self.config, self.world
        part = world.part(config.batch_size)
        torch.manual_seed(_torch_seed("dropout", config.seed, world.rank, self.step))
        images, labels, codes = self._read(part)
        draws = training_draws(part, config.batch_size, config.model.image_shape, config.seed, self.step)
        with autocast(world.device, self.precision):
            return self.objective(images.to(world.device), to_device(draws, world.device), labels, codes)

    def _read(self, part: range) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns part of a batch: images, their classes and how they were transformed, where the model is told."""
        config, device = self.config, self.world.device
        key = (part, config.batch_size, config.seed, self.step)
        images = read_batch(self.data, *key, config.flip)
        labels = read_labels(self.data, *key).to(device) if config.model.n_classes else None
        if not config.model.augment:
            return images, labels, None
        codes = draw_codes(config.model.augment, *key)
        return augmented(images, config.model.augment, codes), labels, codes.to(device)


def train(
    trainer: Trainer,
    checkpoints: Checkpoints,
    intervals: Intervals,
    on_log: Callable[[int, float], object],
    on_evaluate: Callable[[int], object],
    must_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[float], object] = lambda loss: None,
) -> bool:
    """Runs a trainer to the end of its configuration, from its last checkpoint if there is one.

    Args:
        trainer: The run.
        checkpoints: Where its states are kept.
        intervals: How often it logs, checkpoints and evaluates.
        on_log: Called with the step and the mean loss in bits per dimension since the last call.
        on_evaluate: Called with the step, in every process.
        must_stop: Asked after each step whether to checkpoint and stop early.
        on_step: Called with each step's loss in bits per dimension.

    Returns:
        Whether the run is complete.
    """
    if (state := checkpoints.load_latest()) is not None:
        trainer.load_state(state)
    while trainer.step < trainer.config.n_updates:
        on_step(trainer.run_step())
        is_last = trainer.step == trainer.config.n_updates
        stopping = must_stop()
        if trainer.step % intervals.log == 0 or is_last:
            on_log(trainer.step, sum(trainer.losses) / len(trainer.losses))
            trainer.losses.clear()
        if trainer.step % intervals.evaluate == 0 or is_last:
            on_evaluate(trainer.step)  # Before the checkpoint: a run killed in between evaluates this step again.
        if (trainer.step % intervals.checkpoint == 0 or is_last or stopping) and trainer.world.is_first:
            checkpoints.save(trainer.step, trainer.state())
        if stopping:
            trainer.world.wait()  # Else torchrun ends the first process, before it has saved, when it sees another end.
            break
    return trainer.step == trainer.config.n_updates


def optimizer(model: VDM, config: TrainConfig) -> tuple[torch.optim.Optimizer | Joint, list[float]]:
    """Returns what moves the weights, and how many times the learning rate each of its groups moves at.

    AdamW has everything, or with ``muon`` everything but the kernels inside the network. The noise schedule's
    parameters are no weights and do not decay.
    """
    of_net, of_ends, of_interior = _parts(model)
    rest, inner = _split(of_net, inner_kernels(model.net) if config.optimizer == "muon" else [])
    parts = ((rest, config.weight_decay, 1.0), (of_ends, 0.0, 1.0), (of_interior, 0.0, config.interior_rate))
    groups = [{"params": part, "weight_decay": decay} for part, decay, _ in parts if part]
    factors = [factor for part, _, factor in parts if part]
    adamw = torch.optim.AdamW(groups, config.learning_rate, betas=config.betas, fused=True)
    if not inner:
        return adamw, factors
    return Joint([adamw, Muon(inner, config.learning_rate, weight_decay=config.weight_decay)]), [*factors, 1.0]


def _parts(model: VDM) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Returns what training moves of the network, of the noise schedule's ends, and of its interior."""
    of_net = [p for p in model.net.parameters() if p.requires_grad]
    of_schedule = [p for p in model.noise_schedule.parameters() if p.requires_grad]
    of_ends, of_interior = _split(of_schedule, model.noise_schedule.interior)
    return of_net, of_ends, of_interior


def _split(parameters: list[nn.Parameter], apart: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    names = {id(p) for p in apart}
    return [p for p in parameters if id(p) not in names], [p for p in parameters if id(p) in names]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Returns the learning rate of a step: a linear rise, then constant, or a line or half a cosine down to zero."""
    warmup = min(1.0, (step + 1) * config.batch_size / max(config.warmup_images, 1))
    return config.learning_rate * warmup * _DECAYS[config.decay](step / config.n_updates)


_DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}


def _objective(model: VDM, config: TrainConfig) -> Objective | WeightedObjective:
    if config.is_weighted:
        return WeightedObjective(model, config.weighting, config.gamma_sampling == "adaptive")
    return Objective(model, config.n_steps)


def _wrapped(objective: nn.Module, world: World, compiled: bool) -> nn.Module:
    module: nn.Module = DistributedDataParallel(objective) if world.size > 1 else objective
    if compiled:
        module.compile()
    return module


def _torch_seed(purpose: str, *key: int) -> int:
    return int(generator(purpose, *key).integers(2**63))
