"""Displays that live in a notebook with a kernel and still say something in one without."""

from typing import Any

from ipywidgets import Widget

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def widget_bundle(widget: Widget, text: str, fallback: dict[str, Any]) -> dict[str, Any]:
    """A display bundle: the widget, `fallback` (mime type → content) for pages without widgets, and plain
    text.

    To be shown with `display(bundle, raw=True)`. `rlhf-course build` takes the widget out of stored
    outputs, since JupyterLab would show a dead widget in place of the fallback.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {WIDGET_VIEW: view, **fallback, "text/plain": text}


def block(content: str, alert: bool = False) -> str:
    """HTML for a widget, its lines as close as a notebook's text (a widget's own are 28 pixels apart).

    With `alert` a screen reader speaks it as soon as it appears.
    """
    role = ' role="alert"' if alert else ""
    return f'<div{role} style="line-height: 1.5">{content}</div>'
