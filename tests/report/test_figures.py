"""Plots as files."""

import shutil

import pytest
from plotly.graph_objects import Figure, Scatter

from autotune.errors import BadInput
from autotune.report.figures import save_figures

CHROMES = ("google-chrome", "chrome", "chromium", "chromium-browser")
HAS_CHROME = any(map(shutil.which, CHROMES))
FIGURE = Figure(Scatter(x=[1, 2], y=[3, 4])).update_layout(title="speed over memory", height=520)


def test_html_stands_alone(tmp_path):
    path = tmp_path / "plot.html"
    save_figures({path: FIGURE})
    text = path.read_text()
    assert "speed over memory" in text
    assert 'src="http' not in text


def test_another_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match=r"plot.svg: plots are written as .html or .png"):
        save_figures({tmp_path / "plot.html": FIGURE, tmp_path / "plot.svg": FIGURE})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for suffix in ("html", "png"):
        with pytest.raises(BadInput, match=r"file/plot.* cannot be written"):
            save_figures({tmp_path / "file" / f"plot.{suffix}": FIGURE})


# The one test that needs a browser; what happens without one is the test after it, which runs everywhere.
@pytest.mark.skipif(not HAS_CHROME, reason="PNG plots are drawn by Chrome or Chromium, and there is none")
def test_png_is_drawn(tmp_path):
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    save_figures(dict.fromkeys(paths, FIGURE))
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert (width, height) == (2000, 1040)


def test_without_a_browser_it_says_what_would_help(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(BadInput, match=r"install one .*or take the HTML plots"):
        save_figures({tmp_path / "plot.png": FIGURE})
    assert not list(tmp_path.iterdir())
