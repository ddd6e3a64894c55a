"""Figures of the course: their look, their alt text, and that drawing one leaves no trace."""

import base64
import io

import matplotlib
import numpy as np
import pytest

from rlhf_course import plots


@pytest.fixture
def displayed(monkeypatch):
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: calls.append((data, metadata)))
    return calls


def draw(alt="a line that rises"):
    with plots.figure("It rises", alt) as axes:
        axes.plot([0, 1], [0, 1], color=plots.COLOURS["ppo"])


def test_a_figure_is_shown_sharp_opaque_and_in_words(displayed):
    draw()
    ((data, metadata),) = displayed
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.shape[:2] == (680, 1520)
    assert metadata["image/png"] == {"alt": "a line that rises", "width": 760}
    assert data["text/plain"] == "a line that rises"
    assert picture[0, 0, :3].tolist() == [1, 1, 1]
    assert (picture[..., 3] == 1).all()


def test_few_colours_look_the_same_and_weigh_less():
    drawn = matplotlib.figure.Figure()
    drawn.subplots().plot([0, 1], [0, 1], color=plots.COLOURS["ppo"])
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    few = plots.in_few_colours(buffer.getvalue())
    before, after = (matplotlib.image.imread(io.BytesIO(picture))[..., :3] for picture in (buffer.getvalue(), few))
    assert np.abs(before - after).max() < 0.1 and np.abs(before - after).mean() < 1e-3
    assert len(few) < 0.6 * len(buffer.getvalue())


def test_the_same_figure_gives_the_same_bytes(displayed):
    draw()
    draw()
    assert displayed[0][0]["image/png"] == displayed[1][0]["image/png"]


def test_the_style_does_not_leak():
    before = dict(matplotlib.rcParams)
    with plots.figure("Two", "two empty axes", columns=2) as (left, right):
        assert left is not right
        assert not left.spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("finding", "alt"), [("", "something"), ("It rises", " ")])
def test_a_figure_needs_a_finding_and_an_alt_text(finding, alt):
    with pytest.raises(ValueError, match="a finding and an alt text"), plots.figure(finding, alt):
        pass


def test_every_method_has_a_colour_of_its_own():
    rgb = [matplotlib.colors.to_rgb(colour) for colour in plots.COLOURS.values()]
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(rgb) for b in rgb[:i]]
    assert min(distances) > 0.3


def test_smoothing_keeps_length_and_constants():
    assert plots.smooth([2.0] * 7, 3).tolist() == [2.0] * 7
    assert plots.smooth([0.0, 3.0, 6.0], 3).tolist() == [1.5, 3.0, 4.5]
    assert len(plots.smooth([1.0, 2.0], 9)) == 2
