"""Where two results differ, in one line that a learner can read; and values as they stand in a message."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
_READABLE = 24  # tensors with more elements than this are described, not printed


def describe(value: Any) -> str:
    """`value` as text: a small tensor in full, a large one by its range, with shape and dtype."""
    if not isinstance(value, Tensor):
        return repr(value)
    label = f"shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if value.numel() <= _READABLE:
        return f"{_nested(value.detach().cpu().tolist())}  ({label})"
    low, high = value.min().item(), value.max().item()
    return f"a tensor from {_number(low)} to {_number(high)}  ({label})"


def difference(expected: Any, got: Any, tolerance: float | None = None) -> str | None:
    """One line that says where `got` first differs from `expected`; None where they agree.

    Tensors agree when shape and values do: |got − expected| ≤ tolerance·(1 + |expected|), equal infinities
    and NaNs included. A mask may be of any number type, an index must be whole. A plain number will do for
    a tensor with one element and no dimension.
    """
    if isinstance(expected, Tensor):
        return _tensor_difference(expected, got, tolerance)
    if got is None and expected is not None:
        return "it returned None: is there a `return` on every path?"
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return f"expected a dict, got {type(got).__name__}"
        return _items_difference(
            [(repr(key), expected[key]) for key in expected],
            {repr(key): value for key, value in got.items()},
            "key",
            tolerance,
        )
    if isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple):
            return f"expected a {type(expected).__name__}, got {type(got).__name__}"
        numbered = [(str(index), value) for index, value in enumerate(expected)]
        return _items_difference(numbered, {str(i): value for i, value in enumerate(got)}, "item", tolerance)
    if isinstance(expected, float):
        if not isinstance(got, bool | int | float | np.number | Tensor):
            return f"expected a number, got {type(got).__name__}"
        return _tensor_difference(torch.tensor(expected, dtype=torch.float64), got, tolerance)
    try:
        equal = bool(expected == got)
    except (RuntimeError, ValueError, TypeError):
        equal = False
    return None if equal else f"expected {expected!r}, got {describe(got)}"


def _items_difference(expected: list, got: dict, kind: str, tolerance: float | None) -> str | None:
    for key, value in expected:
        if key not in got:
            return f"{kind} {key} is missing"
        if got[key] is None and value is not None:
            return f"{kind} {key}: expected {describe(value)}, got None"
        found = difference(value, got[key], tolerance)
        if found:
            return f"{kind} {key}: {found}"
    extra = list(got)[len(expected) :] if kind == "item" else [key for key in got if key not in dict(expected)]
    return f"{kind} {extra[0]} should not be there" if extra else None


def _tensor_difference(expected: Tensor, got: Any, tolerance: float | None) -> str | None:
    if got is None:
        return "it returned None: is there a `return` on every path?"
    if isinstance(got, bool | int | float | np.number):
        got = torch.tensor(float(got) if expected.is_floating_point() else got, device=expected.device)
    if isinstance(got, tuple) and hasattr(got, "values"):
        return "expected a tensor, got the pair of values and indices that torch returns: take its .values"
    if not isinstance(got, Tensor):
        return f"expected a tensor, got {type(got).__name__}"
    if got.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    if got.device.type != expected.device.type:
        return f"expected it on {expected.device.type}, where the inputs are, got it on {got.device.type}"
    whole = not expected.is_floating_point() and expected.dtype != torch.bool
    if whole and (got.is_floating_point() or got.dtype == torch.bool):
        return f"expected whole numbers ({expected.dtype}), got {got.dtype}"
    if tolerance is None:
        tolerance = 1e-2 if expected.dtype in _HALF or got.dtype in _HALF else 1e-4
    a, b = expected.detach().cpu().double(), got.detach().cpu().double()
    close = (a - b).abs() <= tolerance * (1 + a.abs())
    close = torch.where(a.isfinite(), close, (a == b) | (a.isnan() & b.isnan()))
    if close.all():
        return None
    index = tuple((~close).nonzero()[0].tolist())
    where = f"first difference at index {list(index)}: " if index else ""
    return f"{where}expected {_number(a[index].item())}, got {_number(b[index].item())}"


def _nested(values: Any) -> str:
    if isinstance(values, list):
        return "[" + ", ".join(_nested(value) for value in values) + "]"
    return _number(values)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
