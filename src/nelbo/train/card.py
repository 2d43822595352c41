"""The model card that a run writes beside its weights."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from nelbo.data.images import Images, describe
from nelbo.evaluation import Evaluation
from nelbo.models.provenance import provenance
from nelbo.train.loop import Trainer

_TEMPLATE = """# A variational diffusion model of {kind} images

Trained by `nelbo train`; load it with `nelbo.load(FOLDER)`.

| | |
|---|---|
| data | {n_data} images ({data}) |
| images seen | {n_seen} of {n_planned}, in {hours:.2f} hours of training steps |
| device | {device}, {precision} |
| parameters | {n_parameters} |
| bound on {n_test} images of {test} | {bound} |

## Where it comes from

```json
{provenance}
```

The weights are the run's exponential moving average. The configuration stands in `config.json`.
"""


def card(trainer: Trainer, test: Images | None, result: Evaluation | None) -> str:
    """Returns the model card in Markdown: data, compute and result."""
    config, world = trainer.config, trainer.world
    return _TEMPLATE.format(
        kind=describe(config.model.image_shape),
        n_data=len(trainer.data),
        data=Path(trainer.data.name).name,
        n_seen=trainer.step * config.batch_size,
        n_planned=config.n_updates * config.batch_size,
        hours=trainer.seconds / 3600,
        device=f"{world.size} x {world.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)",
        precision=trainer.precision,
        n_parameters=sum(p.numel() for p in trainer.model.parameters()),
        n_test=result.n_images if result else 0,
        test=Path(test.name).name if test else "a test set",
        bound=_bound(result) if result else "not measured",
        provenance=json.dumps(trained_from(trainer), indent=2),
    )


def trained_from(trainer: Trainer) -> dict[str, Any]:
    """Returns where the averaged model comes from; its name is that of its folder."""
    return provenance(trainer.average.model, "this folder", trainer.data, trainer.config.seed)


def _bound(result: Evaluation) -> str:
    time = "continuous time" if result.n_steps is None else f"T = {result.n_steps}"
    return f"{result.bpd:.4f} ± {result.standard_error:.4f} bpd, {time}"
