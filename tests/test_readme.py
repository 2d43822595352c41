"""README.md is short, its pictures are there, and what it shows is what the program prints."""

import functools
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

import nelbo
from nelbo.cli.main import VERBS, main
from nelbo.runtime.bundled import bundled_tables
from nelbo.time_schedule.error_table import load_table
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.report import report

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text("utf-8")


def test_it_is_short():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_pictures_are_small():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) >= 2
    assert all((ROOT / picture).stat().st_size < 200_000 for picture in pictures)


def commands(text):
    """Returns the words of each command of nelbo in a page's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if re.match(r"nelbo [a-z]", line)]


@pytest.mark.parametrize("page", [PAGES[0], *(ROOT / "docs" / f"{name}.md" for name in ("index", "runs", "schedules"))])
def test_its_commands_are_understood(page, monkeypatch):
    """Each verb takes the words that the page gives it; nothing is run."""
    found, understood = commands(page.read_text("utf-8")), []
    assert found

    def stand_in(verb):
        return functools.wraps(verb)(lambda *arguments, **options: understood.append(verb))

    for name, verb in list(VERBS.items()):
        monkeypatch.setitem(VERBS, name, stand_in(verb))
    for words in found:
        main(words)
    assert len(understood) == len(found)


def test_the_schedules_it_shows_are_those_of_the_bundled_table():
    table, budgets = load_table(bundled_tables()["cifar10-small"]), (4, 8, 16, 32, 64)
    printed = report(table, optimal_schedules(table, budgets), ["spectral", "posterior"], budgets).text().splitlines()
    shown = [line for line in README.splitlines() if re.match(r"(optimal|even|cosine), ", line)]
    assert len(shown) == 4
    numbers = [[line.split(",")[0], *line.split()[1:]] for line in printed]
    assert all([line.split(",")[0], *line.split()[1:]] in numbers for line in shown)


def test_the_committed_curves_are_those_of_the_bundled_table(script):
    committed = json.loads((ROOT / "docs" / "figures" / "overview.json").read_text())["curves"]
    for name, found in script("runs/figures.py").curves().items():
        assert committed[name] == pytest.approx(found, rel=1e-6), name


def test_the_api_has_every_public_name_and_a_page_for_each_room():
    front = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert [name for name in nelbo.__all__ if f"`nelbo.{name} <" not in front] == []
    pages = {page.stem: page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md")}
    rooms = {path.name for path in Path(nelbo.__file__).parent.iterdir() if (path / "__init__.py").exists()}
    assert rooms - {"cli"} <= set(pages)
    assert [name for name in pages if f"\napi/{name}\n" not in front] == []
    for name, page in pages.items():
        modules = re.findall(r"automodule:: (\S+)", page)
        assert modules, name
        assert [module for module in modules if find_spec(module) is None] == []


@pytest.mark.slow
def test_its_python_runs():
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, {})
