"""``nelbo info``: what a model is."""

from typing import Annotated

import tyro


def info(model: Annotated[str | None, tyro.conf.Positional] = None) -> None:
    """Prints what a model is made of; without a model, which ones come with the package.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, or an id on the hub.
    """
    from nelbo.runtime.bundled import bundled_images, bundled_models

    if model is None:
        print(f"models  {', '.join(bundled_models())}\nimages  {', '.join(bundled_images())}")
        return

    from nelbo.interop.any_model import load
    from nelbo.interop.ddpm import DDPM
    from nelbo.models.vdm import VDM

    loaded = load(model)
    schedule = loaded.noise_schedule
    print(f"images      {loaded.image_shape} (channels, height, width)")
    print(f"parameters  {sum(p.numel() for p in loaded.parameters())}")
    print(f"gamma       {schedule.gamma_0.item():.4f} to {schedule.gamma_1.item():.4f}")
    if isinstance(loaded, VDM | DDPM):
        print(loaded.config.model_dump_json(indent=2))
