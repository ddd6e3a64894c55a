"""What trainers need around the training itself: devices, dropout, interrupts, and a check of the learner's loss."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from rlhf_course._checks import check_tensor
from rlhf_course.device import mixed_precision
from rlhf_course.trainers.config import TrainingConfig


def make_accelerator(args: TrainingConfig) -> Accelerator:
    """An Accelerator for these settings; several trainers may live in one process, one after another."""
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    if args.bf16 is None and args.fp16 is None:
        precision = mixed_precision("cpu" if args.use_cpu else "auto")
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=args.use_cpu)


def check_loss(loss: Tensor) -> None:
    """Refuse a loss that is not one number with a gradient."""
    check_tensor("the loss", loss, ndim=0, floating=True)
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError("the loss has no gradient: work it out from the tensors given, without .item() or .detach()")


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch's tensors on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class Called(nn.Module):
    """Calls a model. accelerate changes the `forward` of what it prepares: this one's, and the model stays as it is."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.model(*arguments)


@contextmanager
def interrupts_held_back() -> Iterator[list[int]]:
    """Note a first Ctrl-C in the list that is given, and go on to the end of the block; a second one stops at once."""
    held: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield held  # interrupts do not come here
        return

    def hold(number, frame):
        if held:
            before(number, frame)
        held.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass instead of keeping them."""
    # The newer name; the older one goes with transformers 6.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def disable_dropout(model: nn.Module) -> None:
    """Switch dropout off for good, as preference methods must.

    With dropout on, the policy and its own frozen copy differ before a single step: log-ratios are noise, and PPO's
    probability ratio is not 1.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # models that keep the probability and call the function
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
