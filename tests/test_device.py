"""Device, dtype and tier are decided right for machines that are not here."""

import pytest
import torch

from rlhf_course.device import Hardware, mixed_precision, pick_device, pick_dtype, pick_tier

LAPTOP = Hardware()
MAC = Hardware(mps=True)
T4 = Hardware(cuda=((7, 5),))
A100 = Hardware(cuda=((8, 0),))
MIXED = Hardware(cuda=((9, 0), (7, 5)))


@pytest.mark.parametrize(
    ("hardware", "device", "precision", "tier"),
    [
        (LAPTOP, "cpu", "no", "cpu"),
        (MAC, "mps", "no", "cpu"),
        (T4, "cuda", "fp16", "t4"),
        (A100, "cuda", "bf16", "gpu"),
    ],
)
def test_auto(hardware, device, precision, tier):
    assert pick_device("auto", hardware) == torch.device(device)
    assert mixed_precision("auto", hardware) == precision
    assert pick_tier("auto", hardware) == tier


@pytest.mark.parametrize("hardware", [LAPTOP, MAC, T4, A100])
def test_weights_are_float32_unless_asked(hardware):
    assert pick_dtype("auto", "auto", hardware) == torch.float32


def test_each_gpu_is_judged_by_itself():
    assert mixed_precision("cuda:0", MIXED) == "bf16"
    assert mixed_precision("cuda:1", MIXED) == "fp16"
    assert pick_tier("cuda:1", MIXED) == "t4"
    assert pick_tier("cpu", MIXED) == "cpu"
    assert pick_dtype("bfloat16", "cuda:0", MIXED) == torch.bfloat16
    with pytest.raises(ValueError, match=r"compute capability 8.0 or more, this one has 7.5"):
        pick_dtype("bfloat16", "cuda:1", MIXED)


def test_explicit_choices():
    assert pick_device(torch.device("cpu"), T4) == torch.device("cpu")
    assert pick_device("cuda:1", MIXED) == torch.device("cuda:1")
    assert pick_dtype(torch.bfloat16, "cpu", LAPTOP) == torch.bfloat16
    assert pick_dtype("float16", "cuda", T4) == torch.float16


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "tpu", "CUDA"])
def test_unknown_device(name):
    with pytest.raises(ValueError, match=r"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got"):
        pick_device(name, A100)


@pytest.mark.parametrize(("name", "hardware"), [("cuda", LAPTOP), ("cuda", MAC), ("cuda:2", MIXED), ("mps", T4)])
def test_missing_device(name, hardware):
    with pytest.raises(ValueError, match=f"{name!r} was asked for, but PyTorch finds"):
        pick_device(name, hardware)


def test_unknown_or_unfit_dtype():
    with pytest.raises(ValueError, match="dtype must be one of 'auto', 'float32'"):
        pick_dtype("half", "cpu", LAPTOP)
    with pytest.raises(ValueError, match="dtype must be one of"):
        pick_dtype(torch.int64, "cpu", LAPTOP)
    with pytest.raises(ValueError, match="'float16' is for GPUs"):
        pick_dtype("float16", "cpu", LAPTOP)


def test_this_machine_can_be_asked():
    assert pick_device() == pick_device("auto", Hardware.detect())
    assert torch.zeros(1, dtype=pick_dtype(), device=pick_device()).item() == 0
    assert mixed_precision() in ("no", "fp16", "bf16")
    assert pick_tier() in ("cpu", "t4", "gpu")
