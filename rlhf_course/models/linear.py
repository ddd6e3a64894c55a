"""Linear layers by oneDNN, on processors of which PyTorch's own matrix product leaves half unused.

On x86, PyTorch multiplies float32 matrices with Intel's MKL, which keeps to AVX2 on processors of another maker.
oneDNN comes with PyTorch, too, and takes AVX-512 wherever it finds it: twice as fast on them, and as exact. All is
float32 there as well (measured: `benchmarks/NOTES.md`).
"""

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: With fewer tokens than this at once, a call costs more than it saves (measured, tiny model).
FEWEST = 512
#: oneDNN gets ready for each number of tokens when it first meets it: rounded up to a multiple of this, few are new.
ROUND = 64


@cache
def pays() -> bool:
    """Whether this processor has AVX-512 and is AMD's."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    listed = Path("/proc/cpuinfo")  # Linux, where `platform` does not know it
    return listed.read_text(encoding="utf-8") if listed.is_file() else platform.processor()


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of a model multiply by oneDNN from now on. They stay linear layers, weights and all."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """A linear layer that multiplies many float32 tokens on the CPU by oneDNN, and does all else as ever."""

    def forward(self, input: Tensor) -> Tensor:
        here = input.device.type == "cpu" and input.dtype == self.weight.dtype == torch.float32
        if not here or input.shape[:-1].numel() < FEWEST or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        product = Product.apply(input, self.weight)
        return product if self.bias is None else product + self.bias


class Product(torch.autograd.Function):
    """x Wᵀ of states x (…, K) and a weight W (N, K)."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight)
        return _product(states, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        states, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_states = of_weight = None
        if ctx.needs_input_grad[0]:
            of_states = _product(gradient, weight.t())
        if ctx.needs_input_grad[1]:
            of_weight = _product(gradient.flatten(0, -2).t(), states.flatten(0, -2).t())
        return of_states, of_weight


def _product(states: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")
