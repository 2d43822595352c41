"""A run's configuration as text: a table for people, JSON for programs, and a file to start a run from."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nelbo.errors import NelboError
from nelbo.models.config import first_problem
from nelbo.train.config import TrainConfig
from nelbo.train.cost import RunCost

_NOT_CONFIGURATION = ("data", "start")  # What a run folder's config.json holds beside it.


def read_config(path: Path) -> TrainConfig:
    """Returns the configuration in a JSON or YAML file: as ``--dry-run --json`` prints it, or a run's ``config.json``.

    Raises:
        NelboError: If there is no such file, it is no JSON or YAML, or a field is unknown or has a bad value.
    """
    fields = _parsed(path)
    if isinstance(fields, dict) and isinstance(fields.get("config"), dict):
        fields = fields["config"]
    if not isinstance(fields, dict):
        raise NelboError(f"--config {path} holds no configuration: expected what nelbo train --dry-run --json prints")
    fields = {name: value for name, value in fields.items() if name not in _NOT_CONFIGURATION}
    try:
        return TrainConfig.model_validate_json(json.dumps(fields))
    except (ValidationError, TypeError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise NelboError(f"--config {path}: {problem}") from None


def as_json(config: TrainConfig, cost: RunCost) -> str:
    """Returns a configuration, which :func:`read_config` reads, and its cost."""
    fields = {"config": config.model_dump(mode="json"), "cost": {**vars(cost), "seconds": cost.seconds}}
    return json.dumps(fields, indent=2)


def as_table(config: TrainConfig, cost: RunCost) -> str:
    """Returns a configuration, fields named as ``--set`` takes them, and its cost."""
    rows = [*_flat(config.model_dump(mode="json")), ("", ""), *cost.rows()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def _flat(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in fields.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return rows


def _parsed(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise NelboError(f"--config {path} cannot be read ({reason}): give a JSON or YAML file") from None
    if path.suffix.lower() not in (".yaml", ".yml"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise NelboError(f"--config {path} is no JSON ({error}): mend it, or name a YAML file .yaml") from None
    try:
        import yaml
    except ImportError:
        raise NelboError(f"--config {path} needs PyYAML: pip install 'nelbo[yaml]', or give JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NelboError(f"--config {path} is no YAML: {' '.join(str(error).split())}") from None
