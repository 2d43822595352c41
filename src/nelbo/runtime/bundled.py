"""What comes with the package: trained models and sample images, found by name."""

from pathlib import Path

_ASSETS = Path(__file__).parents[1] / "assets"


def bundled_models() -> dict[str, Path]:
    """Returns the folders of the bundled models by name."""
    return {config.parent.name: config.parent for config in sorted(_ASSETS.glob("*/config.json"))}


def model_folder(name: str | Path) -> Path:
    """Returns the folder that a model's name stands for: a bundled model's, or that of a path, which is none's name."""
    return (bundled_models().get(name) if isinstance(name, str) else None) or Path(name)


def bundled_tables() -> dict[str, Path]:
    """Returns the error tables that come with bundled models, by the model's name."""
    return {table.parent.name: table for table in sorted(_ASSETS.glob("*/errors.safetensors"))}


def bundled_images() -> dict[str, Path]:
    """Returns the files of the bundled image sets by name."""
    return {file.stem: file for file in sorted(_ASSETS.glob("images/*.npz"))}
