"""Fine-tuning: a run that begins with a trained model's weights, for a chain of few steps, say, or other images."""

from nelbo.errors import NelboError
from nelbo.models.config import ModelConfig
from nelbo.models.fingerprint import fingerprint
from nelbo.models.interface import DiffusionModel
from nelbo.models.vdm import VDM
from nelbo.train.config import TrainConfig, differences

_MAY_DIFFER = ("noise_schedule.", "decoder", "reverse", "net.dropout")


def finetuning(model: ModelConfig) -> TrainConfig:
    """Returns the run that fine-tunes a model where no preset is named: short, with a small learning rate."""
    return TrainConfig(
        model=model,
        n_images=64_000,
        batch_size=32,
        learning_rate=2e-4,
        decay="cosine",
        warmup_images=3_200,
        ema_rate=0.999,
        n_held_out=1_000,
    )


def trainable(model: DiffusionModel, name: str) -> VDM:
    """Returns a model that can be fine-tuned as what it is.

    Raises:
        NelboError: If it is of another family.
    """
    if not isinstance(model, VDM):
        raise NelboError(f"--finetune {name}: only models trained by nelbo can be fine-tuned")
    return model


def check_start(config: ModelConfig, start: VDM, name: str) -> None:
    """Checks that a run's model can begin with a trained one's weights.

    The noise schedule, the decoder and the reverse kernel may differ, and the dropout.

    Raises:
        NelboError: If the images or the network differ; the message gives the differences.
    """
    before, after = start.config.model_dump(mode="json"), config.model_dump(mode="json")
    if lines := [line for line in differences(before, after) if not line.startswith(_MAY_DIFFER)]:
        raise NelboError(
            f"--finetune {name}: the run's model is another one ({'; '.join(lines)}): "
            "undo the change, or leave out --preset to take the model as it is"
        )


def take_over(model: VDM, start: VDM) -> None:
    """Copies a trained model's weights, and its noise schedule where the run has the same one."""
    model.net.load_state_dict(start.net.state_dict())
    if _shape_of_schedule(model) == _shape_of_schedule(start):
        model.noise_schedule.load_state_dict(start.noise_schedule.state_dict())


def digest(model: VDM) -> str:
    """Returns a short name of a model's weights."""
    return fingerprint(model)[:16]


def _shape_of_schedule(model: VDM) -> dict[str, object]:
    return model.config.noise_schedule.model_dump(exclude={"learned", "learned_ends"})
