"""What all trainers share: the order of the data, the optimiser, the log, checkpoints and exact resuming.

A method's own file holds its algorithm. An *offline* method says what the loss of some rows is (`compute_loss`) and
gets its `step` from here; PPO writes its own `step`.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from rlhf_course.seeding import seed_all, torch_stream
from rlhf_course.trainers.checkpoint import read_checkpoint, remove_old_checkpoints, write_checkpoint
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.history import History
from rlhf_course.trainers.sharding import share_out, whole, whole_weights, wrap
from rlhf_course.trainers.support import (
    check_loss,
    enable_gradient_checkpointing,
    interrupts_held_back,
    make_accelerator,
)

Rows = Sequence[dict[str, Any]]

#: Rows are sorted by length within this many batches at a time, if `group_by_length` is on.
BATCHES_SORTED_TOGETHER = 16

#: With RLHF_COURSE_FAST=1 in the environment no run is longer: enough to see that a lesson's cells run, not what they
#: show. The tests of the learner's notebooks, where nothing is filled in, set it.
REHEARSAL_STEPS = 5


def in_rehearsal() -> bool:
    """Whether RLHF_COURSE_FAST=1 cuts every run short."""
    return os.environ.get("RLHF_COURSE_FAST") == "1"


class Trainer:
    """Trains `model` on `train_dataset`; subclasses are the methods.

    Args:
        model: what is trained: a causal language model (peft's LoRA models included), or a RewardModel.
        ref_model: the frozen reference of methods that have one; None is the model as it is now.
        reward_funcs: what online methods maximise.
        args: the method's settings; its defaults if left out.
        train_dataset: rows with the method's columns (a list of dicts or a datasets.Dataset).
        eval_dataset: rows like them, for `evaluate`.
        processing_class: the tokenizer.
        loss_fn: a function to use in place of the method's loss, called with positional arguments only: yours.
        compute_metrics: called with the trainer at each evaluation; returns more metrics (their names get `eval_`
            in front).
    """

    config_class: type[TrainingConfig] = TrainingConfig
    #: Settings that belong to the package's own loss and that another `loss_fn` would not hear of.
    loss_settings: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        ref_model: nn.Module | None = None,
        reward_funcs: Any = None,
        args: TrainingConfig | None = None,
        train_dataset: Rows = (),
        eval_dataset: Rows | None = None,
        processing_class: Any = None,
        loss_fn: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[["Trainer"], dict[str, float]] | None = None,
    ):
        self.args = args or self.config_class()
        if not isinstance(self.args, self.config_class):
            raise TypeError(f"args must be a {self.config_class.__name__}, got {type(self.args).__name__}")
        if processing_class is None:
            raise ValueError("processing_class is missing: pass the tokenizer that came with the model")
        if processing_class.pad_token_id is None:
            raise ValueError(
                "processing_class has no pad token: set tokenizer.pad_token = tokenizer.eos_token "
                "(safe here: masks come from lengths)"
            )
        if ref_model is model:
            raise ValueError("ref_model is the model that is trained: leave it out for a frozen copy of the model")
        if loss_fn is not None and (unheard := self.args.non_default(self.loss_settings)):
            raise ValueError(
                "loss_fn is called with the loss's positional arguments only, so it cannot honour "
                f"{', '.join(unheard)}: leave out loss_fn, or the setting"
            )
        self.model, self.ref_model, self.reward_funcs = model, ref_model, reward_funcs
        self.tokenizer, self.loss_fn, self.compute_metrics = processing_class, loss_fn, compute_metrics
        self.accelerator = make_accelerator(self.args)
        self.train_rows = self.prepare_rows(train_dataset)
        if len(self.train_rows) == 0:
            report = getattr(self.train_rows, "report", None)
            raise ValueError("train_dataset has no rows" + (f" left ({report})" if report else ""))
        self.eval_rows = None if eval_dataset is None else self.prepare_rows(eval_dataset)
        self.global_step = 0
        self.history = History()
        self._pending: list[dict[str, Tensor]] = []
        self._wrapped: list[nn.Module] = []
        self.setup()
        if self.args.gradient_checkpointing:
            for trained in self.trained_models().values():
                enable_gradient_checkpointing(trained)
        trainable = self.trained_parameters().values()
        if not trainable:
            raise ValueError("the model has no parameter that requires a gradient: nothing to train")
        self.optimizer = self.accelerator.prepare_optimizer(
            torch.optim.AdamW(
                self.parameter_groups(),
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                weight_decay=self.args.weight_decay,
                fused=all(p.device.type in ("cpu", "cuda") for p in trainable),
            )
        )
        self._peak_lrs = [group["lr"] for group in self.optimizer.param_groups]

    # ------------------------------------------------------------------ what a method defines

    def prepare_rows(self, dataset: Rows) -> Rows:
        """Check and tokenise a dataset: rows with token ids, and `length` to group them by."""
        raise NotImplementedError

    def setup(self) -> None:
        """Put models on the device, and make what else the method needs, before the optimiser is built."""
        raise NotImplementedError

    def compute_loss(self, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some rows, as a mean over their items, and metrics."""
        raise NotImplementedError

    def num_items(self, rows: Rows) -> int:
        """How many items (rows, unless a method says otherwise) the loss of `rows` is a mean over."""
        return len(rows)

    def measure(self, rows: Rows, place: int) -> dict[str, Tensor]:
        """Metrics of some rows of `eval_dataset`, which begin at `place` in it, as means over their items."""
        loss, metrics = self.compute_loss(rows)
        return {"loss": loss, **metrics}

    def prepared(self, module: nn.Module) -> nn.Module:
        """`module`, called as the device and the processes want it."""
        self._wrapped.append(wrap(self.accelerator, module))
        return self._wrapped[-1]

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside the `with`, the models can be called as they are, even where FSDP has shared them out."""
        return whole_weights(self._wrapped)

    def trained_models(self) -> dict[str, nn.Module]:
        """The models that learn, by name."""
        return {"model": self.model}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser trains."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The same parameters by name, for checkpoints. Under FSDP, this process's parts of them."""
        share_out(self._wrapped)
        return {
            f"{part}.{name}": parameter
            for part, model in self.trained_models().items()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def extra_state(self) -> dict[str, Any]:
        """Further tensors and numbers a checkpoint must hold for an exact resume."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `extra_state` gave."""

    # ------------------------------------------------------------------ one step

    def step(self, batch: Rows) -> dict[str, Tensor]:
        """One update of the weights on the rows of a batch. Returns metrics, still on the device.

        The batch is worked through in micro-batches that fit the memory. Each one's mean loss is weighted by its
        share of the batch's items: the gradient is that of the whole batch's mean, however it is cut.
        """
        total = self.num_items(batch) / self.accelerator.num_processes  # processes average what they find
        metrics: dict[str, Tensor] = {}
        for rows in self.micro_batches(batch):
            share = self.num_items(rows) / total
            loss, parts = self.compute_loss(rows)
            check_loss(loss)
            self.backward(loss, share)
            for name, value in {"loss": loss, **parts}.items():
                metrics[name] = metrics.get(name, 0.0) + value.detach() * share
        metrics["grad_norm"] = self.update()
        return metrics

    def micro_batches(self, batch: Rows) -> Iterator[Rows]:
        """This process's rows of a batch, in pieces of `per_device_train_batch_size`."""
        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self.args.per_device_train_batch_size
        for start in range(0, len(mine), size):
            yield mine[start : start + size]

    def backward(self, loss: Tensor, share: float | Tensor) -> None:
        """Add the gradient of `share` × a micro-batch's loss to the gradient so far."""
        self.accelerator.backward(loss * share)

    def update(self) -> Tensor:
        """Clip the gradient, move the weights, forget the gradient. Returns the gradient's norm before clipping."""
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = self.accelerator.clip_grad_norm_(trained, self.args.max_grad_norm)
        for group, peak in zip(self.optimizer.param_groups, self._peak_lrs):
            group["lr"] = peak * self.lr_factor(self.global_step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return whole(norm.detach()).to(self.accelerator.device)

    def lr_factor(self, step: int) -> float:
        """The learning rate of a step as a share of its peak."""
        if step < self.args.warmup_steps:
            return (step + 1) / self.args.warmup_steps
        done = (step - self.args.warmup_steps) / max(self.max_steps - self.args.warmup_steps, 1)
        shapes = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return shapes[self.args.lr_scheduler_type]

    # ------------------------------------------------------------------ the run

    @property
    def batch_size(self) -> int:
        """Rows of one step, over all devices."""
        per_device = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return per_device * self.accelerator.num_processes

    @property
    def rows_per_epoch(self) -> int:
        """All rows; of a remainder that the processes cannot share evenly, none."""
        return len(self.train_rows) // self.accelerator.num_processes * self.accelerator.num_processes

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows_per_epoch // self.batch_size)

    @property
    def max_steps(self) -> int:
        """Steps of the whole run; in a rehearsal (RLHF_COURSE_FAST=1) no more than `REHEARSAL_STEPS`."""
        steps = self.args.max_steps
        if steps == -1:
            steps = math.ceil(self.args.num_train_epochs * self.steps_per_epoch)
        return min(steps, REHEARSAL_STEPS) if in_rehearsal() else steps

    def batch(self, step: int) -> Rows:
        """The rows of a step. They follow from seed and step alone, so that a resumed run needs no replay."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if getattr(self, "_order_epoch", None) != epoch:
            self._order, self._order_epoch = self._epoch_order(epoch), epoch
        return [self.train_rows[i] for i in self._order[place]]

    def _epoch_order(self, epoch: int) -> list[list[int]]:
        generator = torch_stream(self.args.seed, "order", epoch)
        order = torch.randperm(len(self.train_rows), generator=generator).tolist()[: self.rows_per_epoch]
        size = self.batch_size
        if not self.args.group_by_length or "length" not in self.train_rows[0]:
            return [order[i : i + size] for i in range(0, len(order), size)]
        batches = []
        for start in range(0, len(order), size * BATCHES_SORTED_TOGETHER):
            chunk = order[start : start + size * BATCHES_SORTED_TOGETHER]
            chunk.sort(key=lambda i: self.train_rows[i]["length"])
            batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def train(self) -> History:
        """Train to the last step, from wherever the trainer stands, and return the history.

        An interrupt (Ctrl-C, the stop button) waits for the end of the step: call `train` again to go on as if
        nothing had happened. A second one stops in the middle of the step. With an `output_dir`, a checkpoint is
        written every `save_steps`, at the end, and on the first interrupt.
        """
        for model in self.trained_models().values():
            model.train()  # all of it: a LoRA wrapper may be in training mode around a model that is not
        silent = self.args.disable_tqdm or not self.accelerator.is_main_process
        bar = tqdm(
            total=self.max_steps,
            initial=self.global_step,
            desc=type(self).__name__,
            unit="step",
            **({"disable": True} if silent else {}),  # left out, the environment's TQDM_DISABLE decides
        )
        try:
            with bar:
                while self.global_step < self.max_steps:
                    with interrupts_held_back() as interrupted, self._chance_of_step():
                        self.before_step()
                        self._pending.append(self.step(self.batch(self.global_step)))
                        self.global_step += 1
                        bar.update()
                        self._after_step(bar)
                    if interrupted:
                        self._save_in_output_dir()
                        raise KeyboardInterrupt(f"stopped after step {self.global_step}; train() goes on from there")
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(
                "out of memory: lower per_device_train_batch_size (and raise gradient_accumulation_steps by as much), "
                "lower max_length, or set gradient_checkpointing=True"
            ) from error
        return self.history

    @contextmanager
    def _chance_of_step(self) -> Iterator[None]:
        """Draw dropout and the like from the step's own stream, and leave torch's global one as it was.

        Like the order of the rows, chance follows from seed and step alone: a resumed run needs no replay.
        """
        devices = [torch.cuda.current_device()] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seed_all(self.args.seed, "step", self.global_step)
            yield

    def before_step(self) -> None:
        """Called before each step."""
        for model in self.trained_models().values():
            if not model.training:  # left so by whoever looked in between; visiting every module takes its time
                model.train()
        self.optimizer.zero_grad()  # of a step that an error broke off

    def _after_step(self, bar: tqdm) -> None:
        step, last = self.global_step, self.global_step == self.max_steps
        if last or step % self.args.logging_steps == 0:
            row = self._flush_metrics()
            bar.set_postfix({name: f"{row[name]:.3g}" for name in self.shown if name in row})
        if last or (self.args.eval_steps and step % self.args.eval_steps == 0):
            found = self.evaluate()
            if found:
                self.history.log(step, found)
        if last or (self.args.save_steps and step % self.args.save_steps == 0):
            self._save_in_output_dir()

    #: The metrics beside the progress bar.
    shown: tuple[str, ...] = ("loss",)

    def _flush_metrics(self) -> dict[str, float]:
        """Read the metrics gathered since the last log line: one trip to the device, one across processes."""
        names = list(dict.fromkeys(name for metrics in self._pending for name in metrics))
        columns = [torch.stack([m[name].float() for m in self._pending if name in m]).mean() for name in names]
        means = self.accelerator.reduce(torch.stack(columns), reduction="mean").tolist()
        self._pending = []
        row = {
            "epoch": self.global_step / self.steps_per_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **dict(zip(names, means)),
        }
        self.history.log(self.global_step, row)
        return row

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and metrics on `eval_dataset`, and what `compute_metrics` adds. Names start with `eval_`."""
        for model in self.trained_models().values():
            model.eval()
        sums: dict[str, Tensor] = {}
        if self.eval_rows:
            total = self.num_items(self.eval_rows)
            size = self.args.per_device_train_batch_size
            rows = sorted(self.eval_rows, key=lambda row: row.get("length", 0))
            for place in range(0, len(rows), size):
                part = rows[place : place + size]
                for name, value in self.measure(part, place).items():
                    sums[name] = sums.get(name, 0.0) + value * (self.num_items(part) / total)
        found = {name: value.item() for name, value in sums.items()}
        if self.compute_metrics is not None:
            with self.whole_weights():
                found |= self.compute_metrics(self)
        return {f"eval_{name}": value for name, value in found.items()}

    # ------------------------------------------------------------------ checkpoints

    def save(self, folder) -> None:
        """Write everything an exact resume needs; the model inside loads with plain transformers.

        Of several processes all must call this, and the first writes.
        """
        write_checkpoint(self, folder)

    def resume(self, folder) -> "Trainer":
        """Take up the run saved in `folder` (a checkpoint, or an output_dir: then its newest whole checkpoint).

        Build the trainer as for the original run first: same model, data and settings. `train()` then goes on as if
        nothing had happened, bit for bit on a CPU.
        """
        read_checkpoint(self, folder)
        return self

    def _save_in_output_dir(self) -> None:
        if self.args.output_dir is not None:
            newest = f"{self.args.output_dir}/checkpoint-{self.global_step}"
            self.save(newest)
            if self.args.save_total_limit is not None and self.accelerator.is_main_process:
                remove_old_checkpoints(newest, self.args.save_total_limit)
