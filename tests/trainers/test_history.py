"""The table of metrics."""

import csv

import pytest
from matplotlib.figure import Figure

from rlhf_course.trainers import History


@pytest.fixture
def history():
    history = History()
    for step in range(1, 4):
        history.log(step, {"loss": 1 / step, "grad_norm": float(step)})
    history.log(3, {"eval_loss": 0.5})
    history.log(4, {"eval_loss": 0.25})
    return history


def test_a_step_has_one_row_and_a_column_skips_what_is_not_there(history):
    assert len(history) == 4 == len(list(history))
    assert history.columns == ["step", "loss", "grad_norm", "eval_loss"]
    assert history["loss"] == [1, 1 / 2, 1 / 3]
    assert history["eval_loss"] == [0.5, 0.25]
    assert history.steps("eval_loss") == [3, 4]
    assert history.last("eval_loss") == 0.25
    assert history.rows[2] == {"step": 3, "loss": 1 / 3, "grad_norm": 3.0, "eval_loss": 0.5}


def test_an_unknown_metric_is_answered_with_those_there_are(history):
    with pytest.raises(KeyError, match="no metric is called 'los'; there are step, loss, grad_norm, eval_loss"):
        history["los"]
    with pytest.raises(KeyError, match="there are none yet"):
        History()["loss"]


def test_csv_gives_the_numbers_back(history, tmp_path):
    path = history.to_csv(tmp_path / "new" / "run.csv")
    with path.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert rows == history.rows
    assert History(history.rows).rows == history.rows


def test_a_copy_shares_no_rows(history):
    copied = History(history.rows)
    copied.log(4, {"loss": 0.0})
    assert "loss" not in history.rows[-1]


def test_plot_has_a_panel_for_each_metric(history):
    figure = history.plot()
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "grad_norm", "eval_loss"]
    line = figure.axes[2].lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([3, 4], [0.5, 0.25])
    assert [axes.get_title() for axes in history.plot("loss").axes] == ["loss"]
    with pytest.raises(KeyError, match="no metric is called 'x'"):
        history.plot("x")
    with pytest.raises(ValueError, match="train first"):
        History().plot()


def test_what_a_notebook_shows(history):
    assert repr(History()) == "History(empty)"
    assert repr(history) == "History(4 rows; last: step 4, eval_loss 0.25)"
    table = history._repr_html_()
    assert table.count("<tr>") == 5
    assert "<td>0.3333</td><td>3</td><td>0.5</td>" in table
    assert "<td>4</td><td></td><td></td><td>0.25</td>" in table
    long = History([{"step": i, "a<b": i / 7} for i in range(1000)])._repr_html_()
    assert long.count("<tr>") == 11
    assert "a&lt;b" in long
    assert "<td>0</td>" in long and "<td>999</td>" in long
    assert "<table>" in History()._repr_html_()
