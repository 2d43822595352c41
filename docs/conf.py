"""Sphinx configuration; `make docs` builds with warnings as errors."""

from importlib.metadata import version as installed_version

project = "nelbo"
author = "The nelbo authors"
copyright = author
release = version = installed_version("nelbo")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # Formulas work without a network.
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"  # The files are ordered to be read from the top.
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"nelbo {release}"


def escape_shapes(app, what, name, obj, options, lines):
    """Keeps the star of a jaxtyping shape such as "b *chw" from starting an emphasis."""
    for i, line in enumerate(lines):
        if line.startswith(":vartype"):
            lines[i] = line.replace("*", r"\*")


def setup(app):
    app.connect("autodoc-process-docstring", escape_shapes, priority=900)  # After napoleon's.
