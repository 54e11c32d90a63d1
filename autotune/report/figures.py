"""Figures as files: HTML that needs nothing from outside, or PNG, which a Chrome of this machine draws."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import BadInput

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PNG_WIDTH, PNG_SCALE = 1000, 2
"""Pixels before scaling, and how many of the file's each of them takes in either direction."""


def save_figures(figures: "Mapping[Path, Figure]") -> None:
    """Write each figure to its path, in the format that the suffix says.

    Raises BadInput for a suffix that is neither .html nor .png, for PNG where there is no Chrome, and where a
    file cannot be written.
    """
    if other := [path for path in figures if path.suffix not in (".html", ".png")]:
        raise BadInput(f"{other[0]}: plots are written as .html or .png")
    try:
        for path, figure in figures.items():
            if path.suffix == ".html":
                figure.write_html(path, include_plotlyjs=True, full_html=True)
        _save_png({path: figure for path, figure in figures.items() if path.suffix == ".png"})
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}") from error


def _save_png(figures: "Mapping[Path, Figure]") -> None:
    """All by one browser, whose start takes longer than any drawing."""
    if not figures:
        return
    from plotly.io import write_images

    for path in figures:
        path.touch()  # the browser's own words for a folder that cannot be written to are long
    try:
        heights = [figure.layout.height for figure in figures.values()]
        write_images(list(figures.values()), list(figures), width=PNG_WIDTH, height=heights, scale=PNG_SCALE)
    except RuntimeError as error:  # plotly's, where no Chrome is found
        for path in figures:
            path.unlink()
        raise BadInput(
            "PNG plots are drawn by Chrome or Chromium, and none was found: install one "
            "(`plotly_get_chrome` does), or take the HTML plots, which need nothing"
        ) from error
