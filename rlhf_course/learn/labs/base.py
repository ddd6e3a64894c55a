"""The frame of every lab: controls, a figure that is drawn anew when one of them moves, and a sentence that
reads it.

The figure is a PNG in an Image widget, which works wherever ipywidgets does (JupyterLab, Notebook 7, VS Code,
Colab). The same output carries the figure as it first stood, for pages without widgets.
"""

import base64
import html
import io
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhf_course.learn.mime import widget_bundle
from rlhf_course.plots import in_few_colours

_WIDTH = 760  # CSS pixels
_SLIDER_WIDTH = 500  # the widgets' own 300 leaves a track on which a step is hardly a pixel
_DPI = 200  # twice the 100 of a plain screen: sharp on a retina one


class Lab:
    """A lab says which controls it has and how to draw; this class does the rest.

    A subclass defines

    - `size`: (width, height) of the figure in inches at 100 dots each;
    - `controls()` → {name: widget}, in the order they are shown;
    - `draw(figure, **values)` → a sentence that reads the figure aloud, where `values` are the controls'.
      The figure's title is its finding.

    Attributes:
        widgets: the controls by name.
        image: the figure.
        reading: the sentence, in a region that a screen reader follows.
        box: all of it.
    """

    size = (7.6, 3.6)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        raise NotImplementedError

    def draw(self, figure: Figure, **values: Any) -> str:
        raise NotImplementedError

    def __init__(self):
        self.widgets = self.controls()
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(width=f"{_WIDTH}px", max_width="100%"))
        self.reading = ipywidgets.HTML()
        self._redraw()
        for widget in self.widgets.values():
            if widget.has_trait("readout") and widget.layout.width is None:
                widget.layout.width, widget.layout.max_width = f"{_SLIDER_WIDTH}px", "100%"
            widget.observe(self._redraw, names="value")
        self.box = ipywidgets.VBox([*self.widgets.values(), self.image, self.reading])

    def show(self) -> None:
        """Display the lab, with its figure as it stands for where widgets do not live."""
        png, sentence = self.render()
        display(
            widget_bundle(self.box, sentence, {"image/png": base64.b64encode(in_few_colours(png)).decode()}),
            metadata={"image/png": {"alt": sentence, "width": _WIDTH}},
            raw=True,
        )

    def render(self) -> tuple[bytes, str]:
        """The figure as PNG and the sentence, for the controls as they stand."""
        figure = Figure(figsize=self.size, dpi=_DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        sentence = self.draw(figure, **{name: widget.value for name, widget in self.widgets.items()})
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue(), sentence

    def _redraw(self, _change: Any = None) -> None:
        self.image.value, sentence = self.render()
        self.reading.value = f'<p role="status" style="line-height: 1.5">{html.escape(sentence)}</p>'
