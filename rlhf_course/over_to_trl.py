"""The same rows and settings in TRL's trainers (the extra `trl`): where the course ends and daily work begins.

`compare` runs a method twice, in our trainer and in TRL's, and returns both histories. What the two libraries do
differently on purpose is made the same here; `docs/over_to_trl.md` lists it.
"""

import copy
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PrinterCallback

from rlhf_course._checks import check_choice
from rlhf_course._hub import quiet_loading
from rlhf_course.models import RewardModel
from rlhf_course.trainers import DPOTrainer, GRPOTrainer, History, KTOTrainer, RewardTrainer, SFTTrainer
from rlhf_course.trainers.base import Rows, Trainer
from rlhf_course.trainers.rollout import sample_rollout, score_rollout

#: Our trainers that TRL has too, under the same names.
METHODS = {"sft": SFTTrainer, "reward": RewardTrainer, "dpo": DPOTrainer, "kto": KTOTrainer, "grpo": GRPOTrainer}
#: The columns in which both expect the rows.
COLUMNS = {
    SFTTrainer: ("prompt", "completion"),
    RewardTrainer: ("prompt", "chosen", "rejected"),
    DPOTrainer: ("prompt", "chosen", "rejected"),
    KTOTrainer: ("prompt", "completion", "label"),
    GRPOTrainer: ("prompt",),
}
#: Settings that TRL has under the same name, but that `trl_config` works out.
_WORKED_OUT = {"output_dir", "max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps"}
_WORKED_OUT |= {"save_total_limit", "disable_tqdm", "bf16", "fp16", "reward_weights"}


def compare(
    method: str, model: nn.Module, tokenizer: Any, rows: Rows, args: Any = None, reward_funcs: Any = None
) -> dict[str, History]:
    """Train copies of `model` by our trainer and by TRL's, on the same batches, and return what both logged.

    Args:
        method: "sft", "reward", "dpo", "kto" or "grpo".
        model: where both begin; it is left as it is. For "reward" a `RewardModel`.
        tokenizer: the model's.
        rows: what our trainer takes. Rows beyond the last full batch are left out.
        args: our config of the method; its defaults if left out. Every step is logged.
        reward_funcs: for "grpo", as our `GRPOTrainer` takes them.

    Returns:
        Two histories, "ours" and "TRL", with the metrics that both log.

    Raises:
        ImportError: TRL is not installed.
        ValueError: for a setting that TRL does not have.
    """
    check_choice("method", method, tuple(METHODS))
    trl()
    trainer_class = METHODS[method]
    trainer = trainer_class(
        copy.deepcopy(model),
        args=replace(args or trainer_class.config_class(), logging_steps=1, output_dir=None, save_steps=None),
        train_dataset=rows,
        processing_class=tokenizer,
        **({"reward_funcs": reward_funcs} if method == "grpo" else {}),
    )
    size = trainer.batch_size
    if len(trainer.train_rows) < size:
        raise ValueError(f"rows must fill a batch of {size}, got {len(trainer.train_rows)}")
    trainer.train_rows = trainer.train_rows[: len(trainer.train_rows) // size * size]
    with tempfile.TemporaryDirectory() as folder, _quietly():
        other = trl_trainer(trainer, folder)
        ours = trainer.train()
        other.train()
    theirs = History()
    for row in other.state.log_history:
        if "loss" in row:
            both = [name for name in ours.columns if name in row and name not in ("step", "epoch")]
            theirs.log(row["step"] // _updates(trainer), {name: row[name] for name in both})
    return {"ours": ours, "TRL": theirs}


def trl():
    """The package TRL, or an ImportError that says how to get it."""
    try:
        import trl
    except ImportError:
        raise ImportError('TRL is not installed: pip install "trl>=1.16"') from None
    return trl


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the progress bars of loading and tokenising, and without warnings about TRL's own insides."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    with warnings.catch_warnings(), quiet_loading():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            if not silent:
                enable_progress_bars()


@_quietly()
def trl_trainer(trainer: Trainer, folder: str | Path, own_answers: bool = False, **changes: Any):
    """TRL's trainer of the same method, on a copy of the model as it is now, with the same settings and batches.

    Args:
        trainer: one of our trainers in `METHODS`, whose rows fill whole batches.
        folder: an empty folder that stays as long as TRL's trainer is used: for a copy of the model, from which TRL
            loads its reference, and for what TRL writes.
        own_answers: GRPO's policy draws its answers by TRL's sampler, not by ours with our random numbers.
        changes: other settings of TRL's config; those that the method does not have are left out.
    """
    from datasets import Dataset

    batches = [trainer.batch(step) for step in range(trainer.max_steps)]
    rows = [row for batch in batches for row in batch]
    if "ranked" in rows[0]:
        raise ValueError("TRL compares two answers: give rows with chosen and rejected, not ranked")
    model = _copied(trainer.model, Path(folder))
    other = getattr(trl(), type(trainer).__name__)(
        model=model,
        args=trl_config(trainer, folder, **changes),
        train_dataset=Dataset.from_list([{name: row[name] for name in COLUMNS[type(trainer)]} for row in rows]),
        processing_class=trainer.tokenizer,
        optimizers=_optimizer(trainer, model),
        **_rewards(trainer, own_answers),
    )
    if not isinstance(trainer, GRPOTrainer):
        # Our token ids. TRL's differ where a chat template writes on after an answer's end, where an answer was cut
        # off, and in which answers KTO puts behind other prompts.
        other.train_dataset = Dataset.from_list([_ids(trainer, row) for row in rows])
    other.remove_callback(PrinterCallback)
    return other


def trl_config(trainer: Trainer, folder: str | Path, **changes: Any):
    """TRL's config with our trainer's settings, both call them by the same names, and with `changes`."""
    args = trainer.args
    for name in ("packing", "reference_free"):
        if getattr(args, name, False):
            raise ValueError(f"TRL has no {name} like ours: leave it out to compare")
    if isinstance(trainer, DPOTrainer) and args.loss_type == "sigmoid" and args.label_smoothing:
        raise ValueError(f"TRL's 'sigmoid' has no label_smoothing, got {args.label_smoothing}: its 'robust' has")
    config = getattr(trl(), type(args).__name__)
    theirs = {field.name for field in fields(config)}
    settings = {name: value for name, value in args.to_dict().items() if name in theirs - _WORKED_OUT}
    settings |= {name: value for name, value in changes.items() if name in theirs}
    if "disable_dropout" in theirs:
        settings["disable_dropout"] = True
    if isinstance(trainer, GRPOTrainer):
        settings["shuffle_dataset"] = False
    else:
        settings["train_sampling_strategy"] = "sequential"
    return config(
        **settings,
        output_dir=str(folder),
        max_steps=trainer.max_steps * _updates(trainer),
        logging_steps=_updates(trainer),
        bf16=trainer.accelerator.mixed_precision == "bf16",
        fp16=trainer.accelerator.mixed_precision == "fp16",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _updates(trainer: Trainer) -> int:
    """Updates of the weights in a step of ours. For TRL, each is a step."""
    return getattr(trainer.args, "num_iterations", 1)


def _copied(model: nn.Module, folder: Path) -> nn.Module:
    """A copy for TRL, which loads the reference from where the copy's config says that it came from."""
    if isinstance(model, RewardModel):
        model = model.model
    if hasattr(model, "peft_config"):  # LoRA: the reference is the model without its adapter
        return copy.deepcopy(model)
    loader = AutoModelForSequenceClassification if hasattr(model, "score") else AutoModelForCausalLM
    model.save_pretrained(folder)
    return loader.from_pretrained(folder, dtype=model.dtype).to(model.device)


def _optimizer(trainer: Trainer, model: nn.Module):
    """Our optimiser and schedule. TRL's own begins a warm-up at 0, and lets neither norms nor biases decay."""
    args = trainer.args
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        weight_decay=args.weight_decay,
    )
    factor = lambda update: trainer.lr_factor(update // _updates(trainer))  # noqa: E731
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _ids(trainer: Trainer, row: dict[str, Any]) -> dict[str, Any]:
    """A tokenised row of ours in TRL's columns."""
    prompt = row["prompt_ids"]
    if isinstance(trainer, SFTTrainer):
        labels = [-100] * len(prompt) + row["completion_ids"]  # no loss on the prompt
        return {"input_ids": prompt + row["completion_ids"], "labels": labels}
    if isinstance(trainer, RewardTrainer):
        margin = {"margin": row["margin"]} if "margin" in row else {}
        return {"chosen_ids": prompt + row["chosen_ids"], "rejected_ids": prompt + row["rejected_ids"], **margin}
    if isinstance(trainer, DPOTrainer):
        return {"prompt_ids": prompt, "chosen_ids": row["chosen_ids"], "rejected_ids": row["rejected_ids"]}
    ids = {"completion_ids": row["completion_ids"], "KL_completion_ids": row["mismatched_ids"]}
    return {"prompt_ids": prompt, "label": row["label"], **ids}


def _rewards(trainer: Trainer, own_answers: bool) -> dict[str, Any]:
    """What TRL's GRPO asks for its rewards, and with what it samples; nothing for the other methods."""
    if not isinstance(trainer, GRPOTrainer):
        return {}
    return {"reward_funcs": trainer.reward_funcs} if own_answers else _our_answers(trainer)


def _our_answers(trainer: GRPOTrainer) -> dict[str, Any]:
    """Arguments by which TRL's policy draws its answers with our random numbers, and has them scored by our rewards."""
    args = trainer.args

    @torch.no_grad()
    def rollout_func(prompts, other):
        step = other.state.global_step // args.num_iterations
        with trainer.accelerator.autocast():
            rollout = sample_rollout(
                other.model,
                trainer.tokenizer,
                trainer.batch(step),
                trainer.mine,
                max_new_tokens=args.max_completion_length,
                temperature=args.temperature,
                stream=(args.seed, "sampling", step),
                num_generations=args.num_generations,
            )
            rewards = [score_rollout(func, rollout, trainer.tokenizer) for func in trainer.reward_funcs]
        width, real = rollout.prompt_width, rollout.attention_mask.bool()
        return {
            "prompt_ids": [ids[kept].tolist() for ids, kept in zip(rollout.sequences[:, :width], real[:, :width])],
            "completion_ids": [ids[kept].tolist() for ids, kept in zip(rollout.sequences[:, width:], rollout.mask)],
            "logprobs": [logps[kept].tolist() for logps, kept in zip(rollout.logps, rollout.mask)],
            "score": (torch.stack(rewards, dim=1).float() @ trainer.reward_weights).tolist(),
        }

    def reward(completions, score, **_):
        return score

    return {"reward_funcs": reward, "rollout_func": rollout_func}
