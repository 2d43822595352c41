"""The shape of src/nelbo, read from its syntax trees: one table of layers, and imports that point one way."""

import graphlib
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.imports import Tree, imports, is_under, module_of

SRC = Path(__file__).parents[1] / "src"
MAX_LINES = 350


@dataclass(frozen=True)
class Layer:
    """Modules directly under nelbo (with all below them), and the other layers that they may import."""

    modules: frozenset[str]
    may_import: frozenset[str]
    outside: frozenset[str] | None = None  # Third-party packages it may import; None is any.


def layer(modules: str, may_import: str, outside: str | None = None) -> Layer:
    return Layer(
        frozenset(modules.split()),
        frozenset(may_import.split()),
        None if outside is None else frozenset(outside.split()),
    )


# A room is a folder, or a module at the root. A new one goes into exactly one row, and imports only rooms above it.
LAYERS: Mapping[str, Layer] = {
    "errors": layer("errors", "", outside=""),
    "runtime": layer("runtime", "errors"),
    "diffusion": layer("diffusion", "runtime errors", outside="torch jaxtyping torchdiffeq"),
    "data": layer("data", "runtime errors"),
    "ans": layer("ans", "runtime errors", outside="numpy numba jaxtyping"),
    "nets": layer("nets", "diffusion runtime errors"),
    "container": layer("container", "ans runtime errors"),
    "models": layer("models", "nets diffusion data runtime errors"),
    "interop": layer("interop", "time_schedule models nets diffusion runtime errors"),
    "time_schedule": layer("time_schedule", "models diffusion data runtime errors"),
    "samplers": layer("samplers", "models diffusion data runtime errors"),
    "use": layer("evaluation sampling", "samplers time_schedule models diffusion data runtime errors"),
    "ode": layer("ode", "use models diffusion data runtime errors"),
    "report": layer("report", "use time_schedule models diffusion data runtime errors"),
    "train": layer("train", "use models nets diffusion data runtime errors"),
    "integer": layer("integer", "use models diffusion data runtime errors"),
    "codec": layer("codec", "integer container ans time_schedule models diffusion data runtime errors"),
    "package": layer("__init__", "codec train ode use time_schedule interop models data diffusion errors"),
    "cli": layer(
        "cli",
        "package report codec integer container train ode use samplers time_schedule interop models data runtime "
        "errors",
    ),
    "main": layer("__main__", "cli"),
}
TORCH_FREE = (
    "time_schedule/search.py",
    "ans/",
    "container/",
    "runtime/loops.py",
    "runtime/decimals.py",
    "codec/plan.py",
)  # Files and folders.
MAX_CHAIN = 12  # Modules in the longest chain of imports at load.
MAX_AT_ROOT = 8
OPTIONAL = {
    "pyarrow",
    "tensorboard",
    "torch.utils.tensorboard",
    "matplotlib",
    "jinja2",
    "huggingface_hub",
    "diffusers",
    "yaml",
}


def layer_of(module: str) -> str | None:
    head = module.split(".")[1] if "." in module else "__init__"
    return next((name for name, row in LAYERS.items() if head in row.modules), None)


# Laws: each returns its violations, one line apiece


def every_module_has_a_layer(tree: Tree) -> list[str]:
    return [f"{path}: in no layer of {Path(__file__).name}" for path in tree if not layer_of(module_of(path))]


def imports_point_one_way(tree: Tree) -> list[str]:
    found = []
    for path in tree:
        name = layer_of(module_of(path))
        if name is None:
            continue  # every_module_has_a_layer says so.
        for item in imports(tree, path):
            row, head = LAYERS[name], item.target.split(".")[0]
            if head == "nelbo":
                other = layer_of(item.target)
                allowed = other == name or other in row.may_import
            else:
                allowed = row.outside is None or head in row.outside or head in sys.stdlib_module_names
            if not allowed:
                found.append(f"{path}:{item.line}: {name} may not import {item.target}")
    return found


def modules_load_in_some_order(tree: Tree) -> list[str]:
    graph = {
        module_of(path): {
            item.target
            for item in imports(tree, path)
            if item.at_load and is_under(item.target, "nelbo") and item.target != module_of(path)
        }
        for path in tree
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return ["import cycle: " + " <- ".join(error.args[1])]
    return []


def exact_modules_never_see_torch(tree: Tree) -> list[str]:
    paths = {module_of(path): path for path in tree}
    found, seen, todo = [], set(), sorted(path for path in tree if path.startswith(TORCH_FREE))
    while todo:
        path = todo.pop()
        seen.add(path)
        for item in imports(tree, path):
            if is_under(item.target, "torch"):
                found.append(f"{path}:{item.line}: imports torch, or serves a module that must not")
            elif item.target in paths and paths[item.target] not in seen:
                todo.append(paths[item.target])
    return found


def optional_packages_load_on_use(tree: Tree) -> list[str]:
    return [
        f"{path}:{item.line}: {item.target} is optional; import it inside a function"
        for path in tree
        for item in imports(tree, path)
        if item.at_load and any(is_under(item.target, package) for package in OPTIONAL)
    ]


def chains_of_imports_are_short(tree: Tree) -> list[str]:
    graph = {module_of(path): set[str]() for path in tree}
    for path in tree:
        graph[module_of(path)] = {item.target for item in imports(tree, path) if item.at_load} & set(graph)
    longest: dict[str, list[str]] = {}
    for module in graphlib.TopologicalSorter(graph).static_order():
        longest[module] = [module, *max((longest[target] for target in graph[module]), key=len, default=[])]
    chain = max(longest.values(), key=len, default=[])
    return [f"a chain of {len(chain)} imports: {' <- '.join(chain)}"] if len(chain) > MAX_CHAIN else []


def the_root_is_short(tree: Tree) -> list[str]:
    at_root = [path for path in tree if "/" not in path and not path.startswith("__")]
    return [f"{len(at_root)} modules at the root: {', '.join(at_root)}"] if len(at_root) > MAX_AT_ROOT else []


def files_hold_one_idea(tree: Tree) -> list[str]:
    return [
        f"{path}: {len(source.splitlines())} lines, more than {MAX_LINES}"
        for path, source in tree.items()
        if len(source.splitlines()) > MAX_LINES
    ] + [f"{path}: name it after what it does" for path in tree if Path(path).name == "utils.py"]


LAWS = [
    every_module_has_a_layer,
    imports_point_one_way,
    modules_load_in_some_order,
    exact_modules_never_see_torch,
    optional_packages_load_on_use,
    chains_of_imports_are_short,
    the_root_is_short,
    files_hold_one_idea,
]


@pytest.mark.parametrize("law", LAWS)
def test_source_obeys(law):
    root = SRC / "nelbo"
    tree = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in root.rglob("*.py")}
    assert tree
    assert law(tree) == []


def test_tests_mirror_the_source():
    """A folder of tests is a room, and a file of tests holds one idea; theory is tested in ``laws``."""
    folder = Path(__file__).parent
    tests = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.py")}
    tests.pop("codec/second_decoder.py")  # All of docs/format.md in one file, which imports nothing.
    assert files_hold_one_idea(tests) == []
    rooms = {path.name for path in (SRC / "nelbo").iterdir() if path.is_dir()}
    assert {path.split("/")[0] for path in tests if "/" in path} <= rooms | {"laws", "fixtures", "golden"}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_pages_name_files_that_exist(page):
    named = set(re.findall(r"`([\w/]+(?:/|\.py))`", (SRC.parent / page).read_text("utf-8"))) - {"utils.py"}
    assert named
    assert [path for path in named if not any((root / path).exists() for root in (SRC.parent, SRC / "nelbo"))] == []


def test_the_map_of_the_rooms_is_this_table():
    """In CONTRIBUTING.md: a row for each room, with the rooms that it may import."""
    rows = re.findall(r"^\| (`.*?) \| .* \| (.*) \|$", (SRC.parent / "CONTRIBUTING.md").read_text("utf-8"), re.M)
    stated = {frozenset(re.findall(r"\w+", rooms)): set(re.findall(r"\w+", may)) - {"nothing"} for rooms, may in rows}
    expected = {
        row.modules: {module for name in row.may_import for module in LAYERS[name].modules} for row in LAYERS.values()
    }
    assert {rooms: stated.get(rooms) for rooms in expected} == expected


def test_command_line_starts_without_torch():
    code = "import nelbo.cli.main, sys; assert 'torch' not in sys.modules, 'nelbo.cli.main imports torch'"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


READING = """
import sys
import nelbo.codec.reading, nelbo.integer.executors
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.bundled import bundled_models
frozen = FrozenModel.load(bundled_models()["mnist-tiny"] / "frozen.safetensors", executor="reference")
import torch
frozen.predict(torch.zeros((1, *frozen.image_shape), dtype=torch.int64), 0.0)
rooms = ("diffusion", "models", "nets", "time_schedule", "train")
loaded = sorted(name for name in sys.modules if name.startswith(tuple(f"nelbo.{room}." for room in rooms)))
assert not loaded, loaded
"""


def test_frozen_networks_and_archives_are_read_without_models():
    result = subprocess.run([sys.executable, "-c", READING], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# The checker itself

GOOD: Tree = {
    "__init__.py": "from importlib import import_module",
    "__main__.py": "from nelbo.cli.main import main",
    "errors.py": "class NelboError(ValueError): ...",
    "diffusion/gaussian.py": "import math\nimport torch\nfrom jaxtyping import Float",
    "diffusion/bound.py": "from nelbo.diffusion import gaussian\nfrom nelbo.diffusion.gaussian import alpha",
    "nets/__init__.py": "from .unet import UNet",
    "nets/unet.py": "from nelbo.diffusion.gaussian import alpha",
    "models/vdm.py": "from nelbo.nets.unet import UNet\nfrom nelbo.errors import NelboError",
    "ans/tables.py": "import numpy",
    "ans/message.py": "from nelbo.ans.tables import f\nfrom nelbo.errors import NelboError",
    "data/open.py": "def read():\n    import pyarrow.parquet",
    "train/tracking.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch.utils.tensorboard import SummaryWriter\n"
    ),
    "cli/main.py": "def main():\n    from nelbo.train.loop import train",
    "train/loop.py": "from nelbo.models.vdm import VDM\nfrom ..data.open import read",
}
BAD = {  # Each change breaks its law once, with this violation.
    every_module_has_a_layer: [
        ({"brand_new.py": ""}, "brand_new.py: in no layer"),
        ({"extras/new.py": ""}, "extras/new.py: in no layer"),
    ],
    imports_point_one_way: [
        (
            {"diffusion/gaussian.py": "from nelbo.models.vdm import VDM"},
            "gaussian.py:1: diffusion may not",
        ),
        ({"diffusion/gaussian.py": "from nelbo.models import vdm"}, "diffusion may not import nelbo.models.vdm"),
        ({"diffusion/gaussian.py": "from nelbo import load"}, "diffusion may not import nelbo"),
        ({"diffusion/gaussian.py": "import numpy as np"}, "diffusion may not import numpy"),
        (
            {"sampling.py": "def f():\n    from .nets import unet"},
            "sampling.py:2: use may not import nelbo.nets.unet",
        ),
        ({"codec/codec.py": "from ..nets.unet import UNet"}, "codec may not import nelbo.nets.unet"),
        ({"data/open.py": "import nelbo.models"}, "data may not import nelbo.models"),
        ({"train/loop.py": "import nelbo.cli.main"}, "train may not import nelbo.cli.main"),
        ({"train/loop.py": "import_module('nelbo.cli')"}, "train may not import nelbo.cli"),
        ({"interop/diffusers.py": "import nelbo.train.loop"}, "interop may not import nelbo.train.loop"),
        ({"models/vdm.py": "import nelbo.brand_new"}, "models may not import nelbo.brand_new"),
    ],
    modules_load_in_some_order: [
        ({"diffusion/gaussian.py": "import nelbo.diffusion.bound"}, "import cycle: nelbo."),
        ({"nets/unet.py": "from nelbo.nets import UNet"}, "import cycle: nelbo.nets"),
    ],
    exact_modules_never_see_torch: [
        ({"ans/message.py": "def f():\n    import torch.nn"}, "ans/message.py:2"),
        ({"ans/tables.py": "from torch import Tensor"}, "ans/tables.py:1"),
        ({"ans/message.py": "import nelbo.runtime.cdf", "runtime/cdf.py": "import torch"}, "runtime/cdf.py:1"),
    ],
    optional_packages_load_on_use: [
        ({"data/open.py": "import pyarrow.parquet as pq"}, "pyarrow.parquet is optional"),
        ({"data/open.py": "try:\n    import diffusers\nexcept ImportError: ..."}, "data/open.py:2"),
        ({"train/tracking.py": "from torch.utils.tensorboard import SummaryWriter"}, "is optional"),
    ],
    chains_of_imports_are_short: [
        ({f"data/a{i}.py": f"import nelbo.data.a{i + 1}" for i in range(12)} | {"data/a12.py": ""}, "a chain of 13"),
    ],
    the_root_is_short: [({f"errors{i}.py": "" for i in range(8)}, "9 modules at the root")],
    files_hold_one_idea: [
        ({"codec/long.py": "x = 1\n" * 351}, "codec/long.py: 351 lines, more than 350"),
        ({"codec/utils.py": ""}, "codec/utils.py: name it"),
    ],
}


@pytest.mark.parametrize("law", LAWS)
def test_law_accepts_a_good_tree(law):
    assert law(GOOD) == []


@pytest.mark.parametrize(("law", "change", "violation"), [(law, *case) for law, cases in BAD.items() for case in cases])
def test_law_sees_a_violation(law, change, violation):
    found = law({**GOOD, **change})
    assert len(found) == 1
    assert violation in found[0]


def test_modules_belong_to_one_layer():
    modules = [module for row in LAYERS.values() for module in row.modules]
    assert len(modules) == len(set(modules))
    assert all(row.may_import <= set(LAYERS) for row in LAYERS.values())


def test_layers_have_an_order():
    graphlib.TopologicalSorter({name: row.may_import for name, row in LAYERS.items()}).prepare()
