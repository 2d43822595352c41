"""Help answers at once: it imports no torch. Wrong usage exits with status 2."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from nelbo.cli.main import VERBS, main

# Asks for the help of every verb in one fresh interpreter, then says what that has imported.
HELP = """
import contextlib, sys
from nelbo.cli.main import VERBS, main

for arguments in ([], *([verb] for verb in VERBS)):
    with contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
print("HEAVY", sorted({"torch", "PIL", "safetensors", "pydantic", "jaxtyping"} & set(sys.modules)))
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert all(f"usage: nelbo {verb}" in done.stdout for verb in VERBS)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_left_gets_no_traceback(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "nelbo", "info"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [[], *([verb] for verb in VERBS)])
def test_help_exits_with_0_and_explains(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr()
    assert " ".join(["usage: nelbo", *arguments]) in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nosuch"],
        ["--nosuch"],
        ["eval"],
        ["eval", "model"],
        ["sample", "model"],
        ["info", "model", "another"],
        ["data", "nosuch", "--out", "x"],
        ["import", "official-vdm", "checkpoint"],
        ["import", "nosuch", "checkpoint", "out"],
        ["eval", "model", "--data", "x", "--nosuch", "3"],
        ["eval", "model", "--data", "x", "--passes", "many"],
        ["eval", "model", "--data", "x", "--precision", "float8"],
        ["eval", "model", "--data", "x", "--device", "abacus"],
        ["train", "--preset", "mnist-tiny", "--log-every", "often"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert "--help" in said.err


def test_version_is_the_installed_one(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"nelbo {version('nelbo')}\n"
