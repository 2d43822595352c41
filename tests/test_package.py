"""The package's public names."""

import importlib
import pkgutil

import nelbo


def test_every_public_name_is_there_and_documented():
    for name in nelbo.__all__:
        assert getattr(nelbo, name).__doc__


def test_no_module_shadows_a_public_name():
    """A submodule of that name would replace it once imported."""
    modules = {module.name for module in pkgutil.iter_modules(nelbo.__path__)}
    assert not modules & set(nelbo.__all__)
    importlib.import_module("nelbo.evaluation")
    assert callable(nelbo.evaluate)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(nelbo, "no_such_name")
