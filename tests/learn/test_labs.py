"""Labs, moved through their controls without a browser."""

import base64

import pytest

from rlhf_course.learn import lab
from rlhf_course.learn.labs.base import Lab
from rlhf_course.learn.labs.bradley_terry import BradleyTerry
from rlhf_course.learn.mime import WIDGET_VIEW

PNG = b"\x89PNG\r\n\x1a\n"


def test_moving_a_slider_draws_the_figure_anew():
    view = BradleyTerry()
    before = bytes(view.image.value)
    assert before.startswith(PNG)
    assert "83.2 %" in view.reading.value
    view.widgets["chosen"].value = 2.1
    assert bytes(view.image.value).startswith(PNG)
    assert bytes(view.image.value) != before
    assert "50.0 %" in view.reading.value
    assert "0.693 nats" in view.reading.value
    assert 'role="status"' in view.reading.value


def test_the_display_carries_a_still_figure(shown):
    lab("bradley_terry")
    ((bundle, options),) = shown
    assert set(bundle) == {WIDGET_VIEW, "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert options["metadata"]["image/png"]["alt"] == bundle["text/plain"]
    assert options["raw"] is True


def test_an_unknown_lab_offers_the_nearest(capsys, shown):
    lab("bradley_tery")
    assert "Did you mean 'bradley_terry'" in capsys.readouterr().out
    assert shown == []


def test_the_same_controls_give_the_same_bytes():
    assert bytes(BradleyTerry().image.value) == bytes(BradleyTerry().image.value)


def test_sliders_are_long_enough_to_aim_with():
    assert {widget.layout.width for widget in BradleyTerry().widgets.values()} == {"500px"}


def test_a_lab_has_to_say_how_it_is_drawn():
    with pytest.raises(NotImplementedError):
        Lab()
