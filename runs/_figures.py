"""Figures of the scripts beside this file, with matplotlib, which is an extra."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(n: int, size: float = 4.0) -> "tuple[Figure, list[Axes]]":
    """Returns a figure of ``n`` panels in a row.

    Raises:
        NelboError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NelboError(
            "figures need matplotlib: pip install 'nelbo[plot]', or leave them out with --no-plot"
        ) from None
    figure = Figure(figsize=(1.2 * size * n, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, n, squeeze=False)
    return figure, list(axes[0])


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
