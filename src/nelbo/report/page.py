"""The page of a report: one self-contained HTML file."""

import math
from pathlib import Path

from nelbo.errors import NelboError
from nelbo.report.measure import N_LEVELS, Findings
from nelbo.runtime.atomic import new_file

TERMS = (
    ("diffusion", "what the chain of latents costs"),
    ("reconstruction", "what is left to say of the image once its cleanest latent is known"),
    ("prior", "what the noisiest latent costs beyond pure noise"),
)


def check_installed() -> None:
    """Raises NelboError unless the extra ``report`` is installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError:
        raise NelboError("reports need Jinja2 and matplotlib: pip install 'nelbo[report]'") from None


def page(found: Findings, figures: dict[str, str]) -> str:
    """Returns a report as HTML that refers to nothing outside itself.

    Args:
        found: What was measured.
        figures: Its figures, of :func:`nelbo.report.figures.figures`.
    """
    from jinja2 import Environment, StrictUndefined

    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        e=found.evaluation,
        p=found.provenance,
        data_name=Path(found.provenance["data"]["path"]).name,
        terms=TERMS,
        figures={"training": "", **figures},
        curve=found.curve,
        n_dims=math.prod(found.pictures.shape[1:]),
        n_pictures=len(found.pictures),
        n_levels=N_LEVELS,
        n_samples=len(found.samples),
        rows=_rows(found),
    )


def save_page(found: Findings, figures: dict[str, str], path: Path) -> None:
    """Writes a report, whole or not at all."""
    text = page(found, figures)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _rows(found: Findings) -> list[tuple[str, object]]:
    """Returns the provenance, a row for each item, and how the bound was estimated."""
    rows: list[tuple[str, object]] = []
    for name, value in found.provenance.items():
        rows += [(f"data {key}", each) for key, each in value.items()] if isinstance(value, dict) else [(name, value)]
    e = found.evaluation
    return [*rows, ("estimate", f"{e.n_passes} network evaluations an image, {e.precision}")]
