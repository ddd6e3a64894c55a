"""What all trainers promise: batches, accumulation, the learner's own function, precision."""

import copy
import inspect

import pytest
import torch

from rlhf_course.advantages import gae, group_advantages, rloo_advantages
from rlhf_course.data.world import world_tokenizer
from rlhf_course.losses import dpo_loss, grpo_loss, kto_loss, ppo_clip_loss, reward_loss, sft_loss
from rlhf_course.trainers import PPOConfig, SFTConfig, SFTTrainer
from trainers.small import (
    METHODS,
    ONLINE,
    PAIRS,
    SFT_ROWS,
    TOKENIZER,
    assert_same_weights,
    brief_llama,
    gpt2,
    llama,
    lora,
    make,
    mean_id,
    reward_model,
    weights,
)

RANKINGS = [
    {"prompt": PAIRS[0]["prompt"], "ranked": ["hope that helps .", "ask me for more .", "imagine bottomless drain ."]},
    {"prompt": PAIRS[2]["prompt"], "ranked": ["imagine bottomless drain .", "hope that helps ."]},
] * 2


def sft_function(logps, mask, /):
    return sft_loss(logps, mask)


def reward_function(chosen_rewards, rejected_rewards, /):
    return reward_loss(chosen_rewards, rejected_rewards)


def dpo_function(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta, /):
    return dpo_loss(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)


def kto_function(policy_logps, ref_logps, labels, kl, beta, /):
    return kto_loss(policy_logps, ref_logps, labels, kl, beta)


def ppo_function(logps, old_logps, advantages, mask, epsilon, /):
    return ppo_clip_loss(logps, old_logps, advantages, mask, epsilon)


def grpo_function(logps, old_logps, advantages, mask, epsilon, /):
    return grpo_loss(logps, old_logps, advantages, mask, epsilon)


FUNCTIONS = {
    "sft": sft_function,
    "reward": reward_function,
    "dpo": dpo_function,
    "kto": kto_function,
    "online-dpo": dpo_function,
    "ppo": ppo_function,
    "grpo": grpo_function,
}


def ends_soon(prompts, completions):
    """A rule that many pairs are equal by."""
    return [float(len(completion.split()) < 2) for completion in completions]


def gradients(trainer):
    """The gradients of the trainer's updates, which are not carried out."""
    found = []

    def update():
        found.append({name: p.grad.clone() for name, p in trainer.trained_parameters().items() if p.grad is not None})
        trainer.optimizer.zero_grad()
        return torch.zeros(())

    trainer.update = update
    trainer.train()
    return found


# ---------------------------------------------------------------------- accumulation (trap 9)

ACCUMULATION = {
    **{method: {"method": method} for method in METHODS},
    **{f"{method} loss_fn": {"method": method, "loss_fn": FUNCTIONS[method]} for method in METHODS},
    "reward rankings": {"method": "reward", "rows": RANKINGS},
    "sft gpt2": {"method": "sft", "model": lambda: gpt2(dropout=0.0)},
    "ppo of all lengths": {"method": "ppo", "model": brief_llama, "value_warmup_steps": 0},
    "ppo reward model": {"method": "ppo", "reward_funcs": reward_model(1), "num_mini_batches": 2},
    "dpo lora": {"method": "dpo", "model": lora},
    "kto lora": {"method": "kto", "model": lora, "undesirable_weight": 2.0},
    "online-dpo with ties": {
        "method": "online-dpo",
        "model": brief_llama,
        "loss_type": "ipo",
        "reward_funcs": ends_soon,
    },
    **{
        f"grpo {loss_type}": {"method": "grpo", "model": brief_llama, "loss_type": loss_type, "beta": 0.3}
        for loss_type in ("grpo", "dapo", "dr_grpo")
    },
    "grpo lora": {"method": "grpo", "model": lora, "beta": 0.1, "num_generations": 4},
    "grpo rloo": {"method": "grpo", "advantage_fn": rloo_advantages, "reward_funcs": [mean_id, reward_model(1)]},
}


@pytest.mark.parametrize("name", ACCUMULATION)
def test_trap_09_eight_times_one_equals_one_times_eight(name):
    case = dict(ACCUMULATION[name])
    method, model = case.pop("method"), case.pop("model", lambda: None)

    def run(size, times):
        return make(
            method, model(), per_device_train_batch_size=size, gradient_accumulation_steps=times, max_steps=2, **case
        )

    whole, cut = gradients(run(8, 1)), gradients(run(1, 8))
    assert len(whole) == len(cut) > 1
    for a, b in zip(whole, cut):
        assert_same_weights(b, a, rtol=1e-4, atol=1e-6)
        assert max(grad.abs().max() for grad in a.values()) > 1e-3

    by_size = {size: run(size, 8 // size) for size in (8, 4, 1)}
    for trainer in by_size.values():
        # Adam's first steps are ±1 × the rate even where the gradient is rounding noise.
        trainer.optimizer = torch.optim.SGD(trainer.parameter_groups())
        trainer.train()
    for size in (4, 1):
        assert_same_weights(weights(by_size[size].model), weights(by_size[8].model), rtol=0, atol=1e-6)
        for metric in set(by_size[8].history.columns) - {"mean_reward"}:  # (of answers, not of pairs)
            assert by_size[size].history[metric] == pytest.approx(by_size[8].history[metric], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_trains(method):
    pieces = 2 if method in ("grpo", "kto") else 1  # their smallest batch is of two answers
    trainer = make(method, per_device_train_batch_size=1, gradient_accumulation_steps=pieces, max_steps=2, eval_steps=1)
    before = weights(trainer.model)
    history = trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert all(v == v for row in history for v in row.values())
    assert any(not torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


def test_group_by_length_only_changes_the_order():
    def order(grouped):
        trainer = make("sft", rows=SFT_ROWS * 5, group_by_length=grouped, per_device_train_batch_size=4)
        batches = [trainer.batch(step) for step in range(trainer.steps_per_epoch)]
        seen = sorted(row["completion"] for batch in batches for row in batch)
        assert seen == sorted(row["completion"] for row in SFT_ROWS * 5)
        return sum(max(row["length"] for row in batch) * len(batch) for batch in batches)

    assert order(True) < order(False)


def test_epochs_differ_and_seeds_differ():
    def order(seed, epoch):
        trainer = make("sft", rows=SFT_ROWS * 2, seed=seed)
        first = epoch * trainer.steps_per_epoch
        return [trainer.batch(step) for step in range(first, first + trainer.steps_per_epoch)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


# ---------------------------------------------------------------------- the learner's function


@pytest.mark.parametrize("method", METHODS)
def test_the_learners_function_is_what_trains(method):
    signature = list(inspect.signature(FUNCTIONS[method]).parameters)
    calls = []

    def counted(*args):
        calls.append(args)
        assert len(args) == len(signature)
        return FUNCTIONS[method](*args)

    usual, own = make(method), make(method, loss_fn=counted)
    flipped = make(method, loss_fn=lambda *args: -FUNCTIONS[method](*args))
    start = weights(usual.model)
    for trainer in (usual, own, flipped):
        trainer.train()
    assert_same_weights(weights(own.model), weights(usual.model))
    assert len(calls) == (6 if method in ("ppo", "grpo") else 3)
    name = next(iter(start))
    moved, moved_back = (weights(trainer.model)[name] - start[name] for trainer in (usual, flipped))
    assert (moved * moved_back).sum() < 0
    tensors = [a for a in calls[-1] if isinstance(a, torch.Tensor)]
    each = {tuple(t.shape) for t in tensors}
    assert tensors[0].requires_grad
    assert each == {tensors[0].shape} | {"grpo": {(2,)}, "kto": {()}}.get(method, set())


def test_the_learners_gae_is_what_trains():
    calls = []

    def own(rewards, values, mask, gamma, lam, /):
        calls.append((rewards.shape, gamma, lam))
        return gae(rewards, values, mask, gamma, lam)

    usual, same = make("ppo", gamma=0.9, lam=0.8), make("ppo", gamma=0.9, lam=0.8, advantage_fn=own)
    other = make("ppo", gamma=0.9, lam=0.8, advantage_fn=lambda r, v, m, g, l: (-gae(r, v, m, g, l)[0], r + v))
    for trainer in (usual, same, other):
        trainer.train()
    assert [call[1:] for call in calls] == [(0.9, 0.8)] * 3
    assert_same_weights(weights(same.model), weights(usual.model))
    assert not torch.equal(other.model.lm_head.weight, usual.model.lm_head.weight)


def test_the_learners_group_advantages_are_what_trains():
    calls = []

    def own(rewards, num_generations, /):
        calls.append((tuple(rewards.shape), num_generations))
        return group_advantages(rewards, num_generations)

    usual, same = make("grpo"), make("grpo", advantage_fn=own)
    other = make("grpo", advantage_fn=lambda r, n: -group_advantages(r, n))
    for trainer in (usual, same, other):
        trainer.train()
    assert calls == [((2,), 2)] * 3
    assert_same_weights(weights(same.model), weights(usual.model))
    assert not torch.equal(other.model.lm_head.weight, usual.model.lm_head.weight)
    with pytest.raises(ValueError, match="cannot honour scale_rewards: leave out advantage_fn"):
        make("grpo", advantage_fn=own, scale_rewards="none")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dpo", {"loss_type": "hinge"}),
        ("dpo", {"loss_type": "ipo"}),
        ("dpo", {"label_smoothing": 0.1}),
        ("dpo", {"reference_free": True}),
        ("kto", {"undesirable_weight": 2.0}),
        ("online-dpo", {"loss_type": "hinge"}),
        ("grpo", {"beta": 0.1}),
        ("grpo", {"loss_type": "dr_grpo"}),
        ("grpo", {"epsilon_high": 0.3}),
        ("reward", {"center_rewards_coefficient": 0.01}),
        ("reward", {"rows": [{**row, "margin": 1.0} for row in PAIRS]}),
    ],
)
def test_what_the_learners_function_would_not_hear_of_is_refused(method, settings):
    make(method, **settings)
    with pytest.raises(ValueError, match=r"loss_fn is called with .* so it cannot honour .*: leave out"):
        make(method, loss_fn=FUNCTIONS[method], **settings)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda x: x.detach().mean(), ValueError, "the loss has no gradient"),
        (lambda x: x, ValueError, r"the loss must have 0 dimension\(s\), got shape"),
        (lambda x: x.mean().item(), TypeError, "the loss must be a torch.Tensor, got float"),
        (lambda x: None, TypeError, "the loss must be a torch.Tensor, got NoneType"),
    ],
)
def test_a_loss_that_cannot_train_is_refused_in_a_sentence(method, wrong, error, message):
    settings = {"value_warmup_steps": 0} if method == "ppo" else {}
    with pytest.raises(error, match=message):
        make(method, loss_fn=lambda *args: wrong(args[0]), **settings).train()


# ---------------------------------------------------------------------- schedule, precision, memory


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_learning_rates(kind, expected):
    trainer = make("sft", max_steps=6, warmup_steps=2, lr_scheduler_type=kind)
    assert [trainer.lr_factor(step) for step in range(6)] == pytest.approx(expected, abs=1e-6)


def test_each_group_of_parameters_keeps_its_own_peak():
    trainer = make("ppo", max_steps=4, lr_scheduler_type="linear", learning_rate=1e-3, value_learning_rate=2e-2)
    trainer.train()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.25e-3, 0.5e-2])


@pytest.mark.parametrize("method", METHODS)
def test_bf16_trains_on_the_cpu_and_leaves_a_model_that_computes_as_before(method):
    plain, mixed = make(method, max_steps=2), make(method, max_steps=2, bf16=True)
    plain_norm, mixed_norm = (trainer.train()["grad_norm"][0] for trainer in (plain, mixed))
    assert mixed_norm == pytest.approx(plain_norm, rel=0.2)
    assert mixed_norm != plain_norm
    fresh, ids = make(method), torch.tensor([[1, 5, 6]])
    for name, trained in mixed.trained_models().items():
        assert all(p.dtype == torch.float32 for p in trained.parameters())
        untouched = fresh.trained_models()[name].eval()
        untouched.load_state_dict(trained.state_dict())
        with torch.no_grad():
            found, expected = (model(ids, torch.ones_like(ids)) for model in (trained.eval(), untouched))
        if hasattr(found, "logits"):
            found, expected = found.logits, expected.logits
        assert torch.equal(found, expected), "outside of training, nothing is rounded to bf16"


def test_trainers_of_different_precision_live_side_by_side():
    alone = {}
    for bf16 in (None, True):
        alone[bf16] = make("dpo", bf16=bf16)
        alone[bf16].train()
    first, second, third = (make("dpo", bf16=bf16) for bf16 in (None, True, None))
    for trainer, bf16 in ((first, None), (second, True), (third, None)):
        trainer.train()
        assert_same_weights(weights(trainer.model), weights(alone[bf16].model))


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_gives_the_same_gradients(method):
    settings = {"reward_funcs": reward_model(1)} if method in ONLINE else {}
    plain = make(method, max_steps=2, **settings)
    saving = make(method, max_steps=2, gradient_checkpointing=True, **settings)
    for trained in saving.trained_models().values():
        inner = getattr(trained, "model", trained)
        assert any(getattr(module, "gradient_checkpointing", False) for module in inner.modules())
    for a, b in zip(gradients(plain), gradients(saving), strict=True):
        assert_same_weights(b, a, rtol=1e-5, atol=1e-7)


def test_gradient_checkpointing_trains_a_lora_model():
    plain, saving = (make("dpo", lora(), gradient_checkpointing=on) for on in (False, True))
    for a, b in zip(gradients(plain), gradients(saving), strict=True):
        assert a
        assert_same_weights(b, a, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "ppo", "grpo", "online-dpo"])
def test_of_a_lora_model_only_the_adapter_learns(method):
    trainer = make(method, lora())
    before = weights(trainer.model)
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(before[name], p)}
    assert moved
    assert all("lora_" in name for name in moved)


# ---------------------------------------------------------------------- what cannot be


def test_bad_arguments_are_refused_by_name():
    rows = SFT_ROWS
    with pytest.raises(
        ValueError, match=r"train_dataset has no rows left \(0 of 8 rows kept; dropped: 8 .no completion"
    ):
        make("sft", max_length=3)
    with pytest.raises(ValueError, match="train_dataset has no rows"):
        make("dpo", rows=[{**row, "rejected": row["chosen"]} for row in PAIRS])
    with pytest.raises(ValueError, match="processing_class is missing"):
        SFTTrainer(llama(), train_dataset=rows)
    with pytest.raises(TypeError, match="args must be a SFTConfig, got PPOConfig"):
        SFTTrainer(llama(), args=PPOConfig(), train_dataset=rows, processing_class=TOKENIZER)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        make("sft", llama().requires_grad_(False))
    with pytest.raises(ValueError, match="each row must have the column 'completion'"):
        make("sft", rows=[{"prompt": "a", "text": "b"}])
    model = llama()
    with pytest.raises(ValueError, match="ref_model is the model that is trained"):
        make("dpo", model, ref_model=model)
    padless = copy.deepcopy(world_tokenizer())
    padless.pad_token = None
    with pytest.raises(ValueError, match="processing_class has no pad token"):
        SFTTrainer(llama(), train_dataset=rows, processing_class=padless)
    with pytest.raises(ValueError, match="must fill a block of max_length=1024 tokens, got 2 tokens in all"):
        make("sft", rows=[{"text": "drain ."}], packing=True)


def test_running_out_of_memory_says_what_to_lower():
    def greedy(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="lower per_device_train_batch_size"):
        make("sft", loss_fn=greedy).train()


def test_the_default_settings_train():
    trainer = SFTTrainer(llama(), train_dataset=SFT_ROWS, processing_class=TOKENIZER, args=SFTConfig(disable_tqdm=True))
    assert trainer.max_steps == 1
    assert len(trainer.train()) == 1


def test_all_of_a_model_is_in_training_mode_though_it_was_wrapped_in_evaluation_mode(monkeypatch):
    pytest.importorskip("peft")
    wrapped = lora(dropout=0.1).eval()
    wrapped.training = True  # as peft leaves the wrapper of a model that was loaded in evaluation mode
    trainer = make("dpo", model=wrapped, max_steps=1)
    seen, compute_loss = [], trainer.compute_loss
    monkeypatch.setattr(
        trainer, "compute_loss", lambda rows: seen.append({m.training for m in wrapped.modules()}) or compute_loss(rows)
    )
    trainer.train()
    assert seen == [{True}]
