"""FSDP, version 2: weights, gradients and the optimiser's state shared out over the processes.

A process then holds its part of each tensor, a `DTensor`; a layer's weights are gathered while it works and let go
after it. Everything here is left as it is where nothing is shared out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def wrap(accelerator: Accelerator, module: nn.Module) -> nn.Module:
    """`module` as device and processes want it called: as it is, in DDP, or shared out by FSDP.

    Raises:
        ValueError: for FSDP's first version, and for other engines that change what a model is.
    """
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU", "FSDP") or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise ValueError(f"the trainers work with DDP and with FSDP's version 2 (fsdp_version: 2), got {kind}")
    if kind != "FSDP":
        return accelerator.prepare(module)
    plugin = accelerator.state.fsdp_plugin
    half = plugin.mixed_precision_policy  # None in single precision
    if half is not None:
        plugin.mixed_precision_policy = replace(half, reduce_dtype=torch.float32)  # gradients are added in it
    # accelerate wants an optimiser beside the model; the trainer makes its own afterwards, of the shared-out weights.
    shared, _ = accelerator.prepare(module, torch.optim.SGD(module.parameters()))
    if half is not None:
        # What comes out is log-probabilities and scores: of hundreds, half precision would leave no digit behind the
        # point. There is no public way to say so of the outermost module alone.
        state = shared._get_fsdp_state()
        state._mp_policy = replace(state._mp_policy, output_dtype=torch.float32)
    return shared


def whole(tree: Any) -> Any:
    """A tensor, or tensors in dicts and lists, gathered from all processes (which must all call this).

    What was shared out comes to the CPU, one tensor after another: together they may be too much for a GPU.
    """
    return tree_map(lambda leaf: leaf.full_tensor().cpu() if isinstance(leaf, DTensor) else leaf, tree)


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, if `like` is shared out and of its shape."""
    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor


@contextmanager
def whole_weights(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the `with`, every process has all weights: for sampling, where each goes its own number of steps."""
    for part in _shared(modules):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in _shared(modules):
            part.set_reshard_after_forward(part not in modules, recurse=False)  # as accelerate had set it
        share_out(modules)


def share_out(modules: Sequence[nn.Module]) -> None:
    """Let go of what was gathered: the modules' parameters are each process's own parts again."""
    for part in _shared(modules):
        part.reshard()


def _shared(modules: Sequence[nn.Module]) -> list[FSDPModule]:
    return [part for module in modules for part in module.modules() if isinstance(part, FSDPModule)]


def leave() -> None:
    """The end of a command of several processes: they go together, since one that is left alone can break off."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
