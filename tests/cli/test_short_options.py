"""Short options of commands about archives, as xz has them."""

import pytest

from nelbo.cli.short_options import expanded
from nelbo.errors import NelboError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("-d a.nelbo", "decompress a.nelbo"),
        ("-dkf a.nelbo b.nelbo", "decompress --keep --force a.nelbo b.nelbo"),
        ("-t -v a.nelbo", "test --verbose a.nelbo"),
        ("-l a.nelbo", "list a.nelbo"),
        ("-9 photos", "compress --level 9 photos"),
        ("-dc -", "decompress --out - -"),
        ("compress -T0 -9q photos -o x", "compress --workers 0 --level 9 --quiet photos --out x"),
        ("compress -T 2 photos -ox", "compress --workers 2 photos --out x"),
        ("compress --lanes -1 photos", "compress --lanes -1 photos"),
        ("compress -- -9 -d", "compress -- -9 -d"),
        ("compress -x photos", "compress -x photos"),
        ("decompress -h", "decompress -h"),
        ("sample model --steps 4", "sample model --steps 4"),
        ("eval -5", "eval -5"),
        ("--help", "--help"),
        ("--tyro-print-completion bash", "--tyro-print-completion bash"),
        ("", ""),
    ],
)
def test_short_options_are_spelled_out(typed, meant):
    assert expanded(typed.split()) == meant.split()


@pytest.mark.parametrize("typed", ["-T", "compress photos -o", "-dT"])
def test_an_option_without_its_value_is_one_line(typed):
    with pytest.raises(NelboError, match="needs a value"):
        expanded(typed.split())
