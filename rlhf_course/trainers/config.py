"""Settings that every trainer has, under TRL's names, with their values checked when they are made."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from rlhf_course._checks import check_choice, check_count, check_number


@dataclass(kw_only=True)
class TrainingConfig:
    """Optimiser, schedule, batches and book-keeping.

    A *step* is one update of the weights. Its batch has `per_device_train_batch_size ×
    gradient_accumulation_steps` rows on each device; the accumulation only saves memory, the result is the same.

    Attributes:
        output_dir: where checkpoints go; None keeps nothing.
        seed: names all random streams of the run.
        per_device_train_batch_size: rows a device works on at once. Lower it when memory runs out.
        gradient_accumulation_steps: how many of those make a step.
        num_train_epochs: passes over the data, if `max_steps` is -1.
        max_steps: steps in all; -1 leaves it to the epochs.
        learning_rate: its peak.
        lr_scheduler_type: "constant", "linear" or "cosine", the last two falling to 0.
        warmup_steps: steps in which the learning rate rises to its peak.
        weight_decay, adam_beta1, adam_beta2: of AdamW.
        max_grad_norm: gradients are scaled down to this norm.
        group_by_length: draw batches of rows of similar length, for less padding. Where the loss is a mean over a
            batch's tokens, a token of a batch of short answers then weighs more: SFT comes to write short answers.
        max_length: longest prompt with completion, in tokens; what is longer is cut at the end.
        bf16, fp16: mixed precision; both None: what the device is good at.
        gradient_checkpointing: recompute activations to save memory.
        use_cpu: stay on the CPU even where there is a GPU.
        logging_steps: steps between two lines of the history. Metrics are read from the device only then.
        eval_steps: steps between two evaluations; None evaluates at the end only.
        save_steps: steps between two checkpoints; None saves at the end only.
        save_total_limit: how many of the newest checkpoints stay; None keeps all.
        disable_tqdm: no progress bar.
    """

    output_dir: str | None = None
    seed: int = 0
    per_device_train_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 1.0
    max_steps: int = -1
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    group_by_length: bool = False
    max_length: int = 1024
    bf16: bool | None = None
    fp16: bool | None = None
    gradient_checkpointing: bool = False
    use_cpu: bool = False
    logging_steps: int = 10
    eval_steps: int | None = None
    save_steps: int | None = None
    save_total_limit: int | None = None
    disable_tqdm: bool = False

    def __post_init__(self):
        self.check_counts("per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps")
        self.check_counts("eval_steps", "save_steps", "save_total_limit")
        self.check_counts("seed", "warmup_steps", low=0)
        self.check_counts("max_length", low=2)
        if self.max_steps != -1:
            self.max_steps = check_count("max_steps (or -1 for whole epochs)", self.max_steps, low=1)
        check_number("num_train_epochs", self.num_train_epochs, low=0, low_open=True)
        check_number("learning_rate", self.learning_rate, low=0)
        check_choice("lr_scheduler_type", self.lr_scheduler_type, ("constant", "linear", "cosine"))
        check_number("weight_decay", self.weight_decay, low=0)
        check_number("adam_beta1", self.adam_beta1, low=0, high=1, high_open=True)
        check_number("adam_beta2", self.adam_beta2, low=0, high=1, high_open=True)
        check_number("max_grad_norm", self.max_grad_norm, low=0, low_open=True)
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 cannot both be on: choose one, or leave both None")
        if self.save_steps is not None and self.output_dir is None:
            raise ValueError("save_steps needs an output_dir to save to")

    def check_counts(self, *names: str, low: int = 1) -> None:
        """Make the settings called `names` whole numbers of at least `low`, but for those that are None."""
        for name in names:
            if getattr(self, name) is not None:
                setattr(self, name, check_count(name, getattr(self, name), low=low))

    def to_dict(self) -> dict[str, Any]:
        """All settings, as JSON can hold them."""
        return asdict(self)

    def non_default(self, names: tuple[str, ...]) -> list[str]:
        """Which of the settings called `names` differ from their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return [name for name in names if getattr(self, name) != defaults[name]]
