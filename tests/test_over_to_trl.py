"""Our losses, gradients and runs against TRL's own trainers, on the same rows."""

import math
import sys

import pytest
import torch
from trainers.small import ROWS, TOKENIZER, assert_same_weights, llama, lora, make, mean_id, reward_model, weights

from rlhf_course import over_to_trl
from rlhf_course.trainers import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, SFTConfig

trl = pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')

CONFIGS = {"sft": SFTConfig, "reward": RewardConfig, "dpo": DPOConfig, "kto": KTOConfig, "grpo": GRPOConfig}
MARGINS = [{**row, "margin": i / 4} for i, row in enumerate(ROWS["reward"])]
CASES = {
    "sft": ("sft", {}),
    "sft, accumulated": ("sft", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    "reward": ("reward", {}),
    "reward, centred, with margins": ("reward", {"rows": MARGINS, "center_rewards_coefficient": 0.01}),
    "dpo": ("dpo", {}),
    "dpo, hinge": ("dpo", {"loss_type": "hinge"}),
    "dpo, robust": ("dpo", {"loss_type": "robust", "label_smoothing": 0.2}),
    "dpo, ipo": ("dpo", {"loss_type": "ipo", "beta": 0.5}),
    "kto": ("kto", {}),
    "kto, weighted": ("kto", {"desirable_weight": 1.5, "undesirable_weight": 0.5}),
}
GROUPS = {
    "dapo, as TRL has it": {},
    "dapo, accumulated": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "grpo": {"loss_type": "grpo", "scale_rewards": "batch"},
    "bnpo": {"loss_type": "bnpo", "epsilon_high": 0.05},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "hot": {"temperature": 1.5, "beta": 0.0},
}


def plain_steps(trainer, model):
    """Let `trainer` take plain gradient steps, and return a list that fills with the gradients as it trains.

    (Adam divides a gradient by its own size: of one that is nearly 0, the last digits would be all that counts.)
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad and ".ref." not in name}
    trainer.optimizer = torch.optim.SGD(parameters.values(), lr=trainer.args.learning_rate)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1.0)
    seen = []
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.append({n: p.grad.clone() for n, p in parameters.items()}))
    return seen


def pair(method, folder, **settings):
    """Our trainer on a batch of eight rows, TRL's made from it, and the gradients that they will have found."""
    settings = {"per_device_train_batch_size": 8, "logging_steps": 1, "learning_rate": 0.5, **settings}
    if method == "reward":  # in double: two answers' gradients nearly cancel, down to single precision's last digits
        settings["model"] = reward_model().double()
    ours = make(method, max_grad_norm=1e9, lr_scheduler_type="constant", **settings)
    theirs = over_to_trl.trl_trainer(ours, folder)
    model = ours.model.model if method == "reward" else ours.model
    return ours, theirs, plain_steps(ours, model), plain_steps(theirs, theirs.model)


def assert_same_gradients(ours, theirs):
    """Equal for every parameter, to 1e-4 of its largest entry."""
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs):
        assert mine.keys() == its.keys()
        for name in its:
            largest = its[name].abs().max().item()
            torch.testing.assert_close(mine[name], its[name], rtol=0, atol=1e-4 * largest)
        assert max(gradient.abs().max() for gradient in its.values()) > 1e-4


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_trls(case, tmp_path):
    """Before the first step, where the policy is the reference, and after it, where it no longer is."""
    method, settings = CASES[case]
    ours, theirs, my_gradients, its_gradients = pair(method, tmp_path, max_steps=2, **settings)
    ours.train()
    theirs.train()
    assert_same_gradients(my_gradients, its_gradients)
    losses = [row["loss"] for row in theirs.state.log_history if "loss" in row]
    assert ours.history["loss"] == pytest.approx(losses, rel=1e-4)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("case", GROUPS)
def test_grpo_is_trls(case, tmp_path):
    """Three updates on one batch of answers: at the second, the ratio to the policy that sampled them is no longer 1.

    TRL's default is ours: the importance ratio × k3 as the KL term, and tokens averaged as DAPO has it.
    """
    settings = {"num_generations": 4, "num_iterations": 3, "beta": 0.2, "max_completion_length": 6, **GROUPS[case]}
    ours, theirs, my_gradients, its_gradients = pair("grpo", tmp_path, max_steps=1, **settings)
    assert theirs.args.use_bias_correction_kl
    assert case != "dapo, as TRL has it" or theirs.args.loss_type == trl.GRPOConfig.loss_type
    ours.train()
    theirs.train()
    assert_same_gradients(my_gradients, its_gradients)
    (logged,) = (row for row in theirs.state.log_history if "loss" in row)
    assert ours.history["loss"] == [pytest.approx(logged["loss"], rel=1e-4, abs=1e-6)]
    assert ours.history["clip_ratio/region_mean"] == [pytest.approx(logged["clip_ratio/region_mean"], abs=1e-6)]
    assert logged["clip_ratio/region_mean"] > 0


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "kto"])
def test_trl_reads_the_rows_as_we_do(method, tmp_path):
    """From text to token ids: end-of-sequence tokens added once, prompts kept out of the loss.

    Where both differ on purpose, `trl_trainer` hands over our ids: an answer that was cut off (`ended`) gets no end
    token from us; what a chat template writes behind the end of an answer is not part of it for us; and KTO's
    mismatched answers come from the next row that asks something else, TRL's from the row before in its batch.
    """
    ours = make(method, per_device_train_batch_size=8, max_steps=1)
    theirs = over_to_trl.trl_trainer(ours, tmp_path)
    texts = [{name: row[name] for name in over_to_trl.COLUMNS[type(ours)]} for row in ours.batch(0)]
    more = {"packing": False, "formatting_func": None} if method == "sft" else {}
    read = theirs._prepare_dataset(
        dataset=trl.trainer.dpo_trainer.Dataset.from_list(texts),
        processing_class=TOKENIZER,
        args=theirs.args,
        dataset_name="train",
        **more,
    )
    for name in set(theirs.train_dataset.column_names) - {"KL_completion_ids"}:
        assert list(read[name]) == list(theirs.train_dataset[name]), name


def test_a_lora_model_goes_over_too(tmp_path):
    ours, theirs, my_gradients, its_gradients = pair("dpo", tmp_path, model=lora(), max_steps=2)
    ours.train()
    theirs.train()
    assert_same_gradients(my_gradients, its_gradients)


@pytest.mark.parametrize("method", over_to_trl.METHODS)
def test_the_curves_lie_on_top_of_each_other(method):
    settings = {
        **{"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 4, "max_steps": 3},
        **{"learning_rate": 1e-2, "lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.1},
    }
    if method == "grpo":
        settings |= {"num_generations": 2, "num_iterations": 2, "beta": 0.1, "max_completion_length": 6}
    model = reward_model() if method == "reward" else llama()
    before = weights(model)
    found = over_to_trl.compare(
        method, model, TOKENIZER, ROWS[method], CONFIGS[method](**settings), mean_id if method == "grpo" else None
    )
    assert list(found) == ["ours", "TRL"]
    ours, theirs = found.values()
    assert ours.steps("loss") == theirs.steps("loss") == [1, 2, 3]
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3, abs=1e-5)
    assert theirs["learning_rate"] == pytest.approx(ours["learning_rate"])
    metric = {"sft": "grad_norm", "reward": "margin", "grpo": "reward"}.get(method, "rewards/margins")
    assert theirs[metric] == pytest.approx(ours[metric], rel=1e-3, abs=1e-5)
    assert all(map(math.isfinite, theirs["loss"])) and len(set(theirs["loss"])) == 3
    assert_same_weights(weights(model), before)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        over_to_trl.compare("ppo", llama(), TOKENIZER, ROWS["ppo"])
    with pytest.raises(ValueError, match="rows must fill a batch of 64, got 8"):
        over_to_trl.compare("sft", llama(), TOKENIZER, ROWS["sft"], SFTConfig(use_cpu=True))
    settings = {"use_cpu": True, "per_device_train_batch_size": 4}
    for config, problem in (
        (DPOConfig(**settings, reference_free=True), "reference_free"),
        (DPOConfig(**settings, label_smoothing=0.1), "'sigmoid' has no label_smoothing"),
    ):
        with pytest.raises(ValueError, match=problem):
            over_to_trl.compare("dpo", llama(), TOKENIZER, ROWS["dpo"], config)


def test_without_trl_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r'TRL is not installed: pip install "trl>=1.16"'):
        over_to_trl.compare("dpo", llama(), TOKENIZER, ROWS["dpo"])
