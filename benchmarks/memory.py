"""How much memory a step of DPO takes, ours and TRL's, each in a process of its own.

Reported is the process's highest resident memory, less what was resident when the model had been loaded: activations,
logits, gradients, the optimiser's state, and on TRL's side its copy of the model for the reference where it keeps one.
Gradient checkpointing is on for all sides, so that activations, alike on all of them, do not hide the rest.
The parent sees only what the children print. Run a child by hand with `python -m benchmarks.memory SIDE MODEL ...`.
"""

import gc
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from benchmarks.race import OURS
from benchmarks.steps import precompute_reference
from benchmarks.training import THEIRS, policy

STEPS = 2


@dataclass(frozen=True)
class MemoryCase:
    """`pairs` of `tokens` each, prompt included, for `model`; all weights are trained, or an adapter."""

    model: str
    pairs: int
    tokens: int
    lora: bool

    def __str__(self) -> str:
        return f"dpo, {self.model}{', LoRA' * self.lora}, {self.pairs} pairs x {self.tokens} tokens"


CASES = tuple(MemoryCase("smollm2", 8, 512, lora) for lora in (False, True))


def measure(case: MemoryCase) -> list[dict]:
    """A row for each side, with its peak and how many times ours it is (`ratio`; goals speak of its inverse)."""
    taken = {side: _in_a_process(side, case) for side in (*THEIRS, OURS)}
    return [
        {"case": str(case), "side": side, "mebibytes": round(peak), "ratio": round(peak / taken[OURS], 2)}
        for side, peak in taken.items()
    ]


def _in_a_process(side: str, case: MemoryCase) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", side, json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"{case}, {side}: no figure, the process ended with: {last}")
    return float(done.stdout.split()[-1])


def _step(side: str, case: MemoryCase) -> float:
    """Mebibytes of a run's peak above what the loaded model takes."""
    from rlhf_course.over_to_trl import trl, trl_trainer
    from rlhf_course.trainers import DPOConfig, DPOTrainer

    trl().DPOTrainer  # noqa: B018 (its import is part of what is loaded, on either side)
    model, tokenizer = policy(case.model)
    model = _with_adapter(model) if case.lora else model
    loaded = psutil.Process().memory_info().rss / 2**20
    args = DPOConfig(
        per_device_train_batch_size=case.pairs,
        max_steps=STEPS,
        max_length=case.tokens,
        learning_rate=1e-5,
        gradient_checkpointing=True,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(model, args=args, train_dataset=_rows(case), processing_class=tokenizer)
    if side == OURS:
        trainer.train()
    else:
        with tempfile.TemporaryDirectory() as folder:
            theirs = trl_trainer(trainer, folder, **THEIRS[side] | {"gradient_checkpointing": True})
            # TRL works on a copy. Nothing may keep ours in its memory; the schedule does, by our trainer's rates.
            theirs.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(theirs.optimizer, lambda step: 1.0)
            del trainer, model
            policy.cache_clear()
            gc.collect()
            precompute_reference(theirs, case.pairs)
            theirs.train()
    return _peak() - loaded


def _rows(case: MemoryCase) -> list[dict[str, str]]:
    """Pairs that `max_length` cuts to `tokens` each."""
    words = {"chosen": " it is a linked particle", "rejected": " a particle is it linked"}
    answers = {name: text * case.tokens for name, text in words.items()}
    return [{"prompt": "<bos> explain quantum entanglement . <sep>", **answers}] * case.pairs


def _with_adapter(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))


def _peak() -> float:
    """The process's highest resident memory so far, in mebibytes (Linux counts kibibytes, macOS bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    print(_step(sys.argv[1], MemoryCase(**json.loads(sys.argv[2]))))
