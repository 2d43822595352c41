"""Every function that docs/theory.md names exists, and the page names all of the theory."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

DOCS = Path(__file__).parents[1] / "docs"
LINKS = sorted(set(re.findall(r"\{py:(func|meth|class|mod)\}`([\w.]+)`", (DOCS / "theory.md").read_text("utf-8"))))
THEORY = ("gaussian", "noise_schedule", "learned_schedule", "schedule_variance", "decoder", "reverse", "bound")


@pytest.mark.parametrize(("role", "path"), LINKS)
def test_what_a_formula_is_linked_to_exists(role, path):
    target = resolve_name(path)
    assert target.__doc__
    assert {"class": isinstance(target, type), "mod": hasattr(target, "__path__") or hasattr(target, "__file__")}.get(
        role, callable(target)
    )


def test_the_page_and_the_api_cover_the_theory():
    api = (DOCS / "api" / "diffusion.md").read_text("utf-8")
    for module in THEORY:
        assert any(path.startswith(f"nelbo.diffusion.{module}") for _, path in LINKS), module
        assert f"automodule:: nelbo.diffusion.{module}\n" in api, module
