"""Checks of arguments: bad input gets one sentence that names the argument, what came and what was expected.

Every check raises `TypeError` for a wrong kind of thing (a list where a tensor belongs, whole numbers where
real ones belong) and `ValueError` for a wrong shape or value. Shapes and types are checked on every device.
Values inside a tensor are checked on the CPU alone: an accelerator would have to stop and be waited for.
"""

import math
from collections.abc import Collection
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def check_tensor(name: str, x: Any, ndim: int | tuple[int, ...] | None = None, floating: bool = False) -> Tensor:
    """Return `x` if it is a tensor, with `ndim` dimensions (one number, or several to choose from)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if floating and not x.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {x.dtype}")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and x.ndim not in allowed:
        expected = " or ".join(str(n) for n in allowed)
        raise ValueError(f"{name} must have {expected} dimension(s), got shape {tuple(x.shape)}")
    return x


def check_same_shape(**tensors: Tensor | None) -> None:
    """Refuse tensors of different shapes before broadcasting hides the error; `None` is passed over."""
    given = {name: tuple(x.shape) for name, x in tensors.items() if x is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in given.items())
        raise ValueError(f"these must have one shape, got {listed}")


def check_choice(name: str, value: Any, options: Collection[str]) -> str:
    """Return `value` if it is one of `options`."""
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")
    return value


def check_number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
) -> Real:
    """Return `value` if it is a finite number from `low` to `high`; an open end leaves its own bound out."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    too_low = low is not None and (value <= low if low_open else value < low)
    too_high = high is not None and (value >= high if high_open else value > high)
    if not math.isfinite(value) or too_low or too_high:
        bounds = []
        if low is not None:
            bounds.append(f"{'above' if low_open else 'at least'} {low}")
        if high is not None:
            bounds.append(f"{'below' if high_open else 'at most'} {high}")
        raise ValueError(f"{name} must be {' and '.join(bounds) or 'finite'}, got {value!r}")
    return value


def check_count(name: str, value: Any, low: int = 0) -> int:
    """Return `value` if it is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}")
    if not math.isfinite(value) or value != int(value) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return int(value)


def check_num_items(value: Any) -> Any:
    """Check `num_items_in_batch`: None, a whole number, or a tensor with one (summed over devices)."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"num_items_in_batch must hold one number, got shape {tuple(value.shape)}")
        if value.device.type == "cpu":
            check_count("num_items_in_batch", value.item())
        return value.reshape(())
    return check_count("num_items_in_batch", value)


def as_mask(name: str, mask: Any, like: Tensor) -> Tensor:
    """`mask` as a bool tensor of the shape and device of `like`; it may hold bools, or any 0s and 1s."""
    check_tensor(name, mask)
    if mask.shape != like.shape:
        raise ValueError(f"{name} must have shape {tuple(like.shape)}, got {tuple(mask.shape)}")
    if mask.dtype == torch.bool:
        return mask.to(like.device)
    if mask.device.type == "cpu" and not ((mask == 0) | (mask == 1)).all():
        odd = mask[(mask != 0) & (mask != 1)].flatten()[0].item()
        raise ValueError(f"{name} must hold only 0 and 1 (or False and True), got {odd!r}")
    return (mask != 0).to(like.device)
