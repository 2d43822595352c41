"""Changes the source in one place at a time, runs the tests nearest to it, and prints the changes they do not notice.

    python benchmarks/mutants.py --count 40 --seed 0

What is changed depends on the seed and on the source alone, and only in a copy of ``src``. Where a change survives, a
test is missing, unless it makes no difference: read each one.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("diffusion", "time_schedule", "ans", "integer")
MAX_FILES = 6  # Of tests, for each mutation.
SECONDS = 300  # A mutation that makes the tests run longer is noticed.
PAIRS: tuple[tuple[type[ast.AST], type[ast.AST]], ...] = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.And, ast.Or)),
    *((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.FloorDiv, ast.Mod), (ast.LShift, ast.RShift)),
)
OTHER: dict[type, type] = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}


@dataclass(frozen=True)
class Mutant:
    """One change of one line."""

    path: str
    line: int
    old: str
    new: str
    source: str  # The changed file.


def nodes(tree: ast.AST) -> Iterator[ast.expr]:
    """Yields the expressions that run, so none inside an annotation or a message of an exception."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list") or isinstance(tree, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.expr):
                yield child
            if isinstance(child, ast.AST):
                yield from nodes(child)


def changed(node: ast.expr) -> ast.expr | None:
    """Returns the node with another operator, another number, or its first two arguments exchanged; None if neither."""
    new = deepcopy(node)
    match new:
        case ast.Compare(ops=[op]) if type(op) in OTHER:
            new.ops = [OTHER[type(op)]()]  # pyright: ignore[reportAttributeAccessIssue]: a comparison's is one.
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in OTHER:
            new.op = OTHER[type(op)]()  # pyright: ignore[reportAttributeAccessIssue]
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int(value)):
            new.value = value + 1
        case ast.Constant(value=float(value)):
            new.value = 1.1 * value + 0.01
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            new = new.operand
        case ast.Call(args=[first, second, *rest]) if ast.dump(first) != ast.dump(second):
            new.args = [second, first, *rest]
        case _:
            return None
    return new


def mutants(path: Path) -> list[Mutant]:
    """Returns every change of a module; only of expressions on one line, so that the file keeps its lines."""
    source = path.read_text("utf-8")
    found, lines, place = [], source.splitlines(keepends=True), path.relative_to(ROOT).as_posix()
    for node in nodes(ast.parse(source)):
        new = changed(node)
        if new is None or node.lineno != node.end_lineno:
            continue
        line = lines[node.lineno - 1].encode()
        text = (line[: node.col_offset] + f"({ast.unparse(new)})".encode() + line[node.end_col_offset :]).decode()
        whole = "".join([*lines[: node.lineno - 1], text, *lines[node.lineno :]])
        found.append(Mutant(place, node.lineno, line.decode().strip(), text.strip(), whole))
    return found


def nearest(path: str) -> list[str]:
    """Returns the files of tests that bear a module's name, then those that import it, then those of its room."""
    module, room = Path(path).with_suffix("").parts[1:], Path(path).parts[2]
    near = (
        lambda test: test.stem == f"test_{module[-1]}",
        lambda test: f"{'.'.join(module)} import" in test.read_text("utf-8"),
        lambda test: test.parent.name == room,
    )
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    ordered = dict.fromkeys(str(test.relative_to(ROOT)) for is_near in near for test in tests if is_near(test))
    return list(ordered)[:MAX_FILES]


def passes(tests: list[str], copy: Path, cache: Path, seconds: float | None = SECONDS) -> bool:
    """Returns whether tests pass with the copy of the source, in time."""
    environment = os.environ | {"PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def survivors(chosen: list[Mutant]) -> Iterator[Mutant]:
    """Prints the fate of each mutation and yields those that no test notices."""
    with tempfile.TemporaryDirectory() as folder:
        copy, shared = Path(folder) / "src", Path(folder) / "cache"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        if not passes(sorted({test for mutant in chosen for test in nearest(mutant.path)}), copy, shared, None):
            raise SystemExit("the tests fail without any change: mend them first")
        for number, mutant in enumerate(chosen):
            target = Path(folder) / mutant.path
            original = target.read_bytes()
            target.write_text(mutant.source, "utf-8")  # Loops are compiled anew: their cache does not see imports.
            cache = Path(folder) / f"cache{number}" if "compiled" in mutant.source else shared
            survives = passes(nearest(mutant.path), copy, cache)
            target.write_bytes(original)
            fate = "SURVIVES" if survives else "noticed "
            print(f"{fate} {mutant.path}:{mutant.line}\n    - {mutant.old}\n    + {mutant.new}", flush=True)
            if survives:
                yield mutant


def main() -> None:
    """Chooses mutations, the same number in each room, and prints how many survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rooms = [[m for file in sorted((ROOT / "src/nelbo" / room).rglob("*.py")) for m in mutants(file)] for room in ROOMS]
    chosen = [rng.choice(rooms[i % len(rooms)]) for i in range(options.count)]
    print(f"{len(list(survivors(chosen)))} of {len(chosen)} mutations survive")


if __name__ == "__main__":
    main()
