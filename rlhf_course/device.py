"""Where to compute and in which number type: device, weight type, mixed precision and tier.

Every decision is a pure function of `Hardware`, so each can be asked about a machine that is not at hand.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch

from rlhf_course._checks import check_choice

Tier = Literal["cpu", "t4", "gpu"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# The first NVIDIA generation that multiplies bfloat16 natively (Ampere). A T4 is 7.5 and emulates it, slowly.
_NATIVE_BF16 = (8, 0)


@dataclass(frozen=True)
class Hardware:
    """What a machine has.

    Attributes:
        cuda: the compute capability of each CUDA device, as in `((7, 5),)` for one T4; empty without any.
        mps: whether there is an Apple GPU that PyTorch can use.
    """

    cuda: tuple[tuple[int, int], ...] = ()
    mps: bool = False

    @classmethod
    def detect(cls) -> "Hardware":
        """This machine's."""
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        capabilities = tuple(torch.cuda.get_device_capability(i) for i in range(count))
        return cls(cuda=capabilities, mps=torch.backends.mps.is_available())


def pick_device(device: str | torch.device = "auto", hardware: Hardware | None = None) -> torch.device:
    """The device called `device`; `"auto"` is the first CUDA device, else the Apple GPU, else the CPU.

    Args:
        device: "auto", "cpu", "cuda", "cuda:N", "mps", or a torch.device.
        hardware: the machine to decide for; this one if left out.

    Raises:
        ValueError: for any other name, or for a device that the machine does not have.
    """
    hardware = hardware or Hardware.detect()
    name = str(device)
    if name == "auto":
        name = "cuda" if hardware.cuda else "mps" if hardware.mps else "cpu"
    match = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if match is None:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {name!r}")
    kind, index = match[1], int(match[2] or 0)
    available = {"cpu": 1, "cuda": len(hardware.cuda), "mps": int(hardware.mps)}[kind]
    if index >= available:
        count = f"{available} {kind} device(s)" if available else f"no {kind} device"
        raise ValueError(f"device {name!r} was asked for, but PyTorch finds {count} here: use 'auto' or 'cpu'")
    return torch.device(name)


def pick_dtype(
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    hardware: Hardware | None = None,
) -> torch.dtype:
    """The number type of a model's weights; `"auto"` is float32 everywhere.

    Weights in training stay in float32 on every device: bfloat16 keeps 8 significant bits, so an update
    smaller than about 1/256 of a weight (a learning rate of 1e-6 makes few others) would be rounded away. The
    speed of half precision comes from `mixed_precision`. Half-precision weights are for sampling from large
    models.

    Args:
        dtype: "auto", "float32", "float16", "bfloat16", or one of these torch types.
        device: where the weights go.
        hardware: the machine to decide for; this one if left out.

    Raises:
        ValueError: for any other type, for bfloat16 on a GPU that only emulates it (compute capability below
            8), or for float16 on the CPU, which has little arithmetic for it.
    """
    hardware = hardware or Hardware.detect()
    device = pick_device(device, hardware)
    name = check_choice("dtype", str(dtype).removeprefix("torch."), ("auto", *_DTYPES))
    if name == "bfloat16" and device.type == "cuda" and not _has_bf16(device, hardware):
        capability = ".".join(str(n) for n in hardware.cuda[device.index or 0])
        raise ValueError(
            f"dtype 'bfloat16' needs a GPU of compute capability 8.0 or more, this one has {capability}: "
            "use 'auto', 'float32' or 'float16'"
        )
    if name == "float16" and device.type == "cpu":
        raise ValueError("dtype 'float16' is for GPUs: use 'auto', 'float32' or 'bfloat16' on the CPU")
    return torch.float32 if name == "auto" else _DTYPES[name]


def mixed_precision(
    device: str | torch.device = "auto", hardware: Hardware | None = None
) -> Literal["no", "fp16", "bf16"]:
    """What to give accelerate as `mixed_precision`: matrix products in half precision, weights in float32.

    "bf16" on CUDA devices of compute capability 8 and more, "fp16" (with its loss scaling) on older ones such
    as the T4, "no" on the CPU, where it is seldom faster, and on Apple GPUs.
    """
    hardware = hardware or Hardware.detect()
    device = pick_device(device, hardware)
    if device.type != "cuda":
        return "no"
    return "bf16" if _has_bf16(device, hardware) else "fp16"


def pick_tier(device: str | torch.device = "auto", hardware: Hardware | None = None) -> Tier:
    """The size of run a device is good for: "cpu" (Apple GPUs too), "t4" (older CUDA) or "gpu" (newer)."""
    hardware = hardware or Hardware.detect()
    device = pick_device(device, hardware)
    if device.type != "cuda":
        return "cpu"
    return "gpu" if _has_bf16(device, hardware) else "t4"


def _has_bf16(device: torch.device, hardware: Hardware) -> bool:
    return hardware.cuda[device.index or 0] >= _NATIVE_BF16
