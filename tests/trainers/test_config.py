"""Settings are checked when they are made."""

import json

import pytest

from rlhf_course.trainers import DPOConfig, GRPOConfig, KTOConfig, OnlineDPOConfig, PPOConfig, RewardConfig, SFTConfig

CONFIGS = [SFTConfig, RewardConfig, DPOConfig, KTOConfig, PPOConfig, GRPOConfig, OnlineDPOConfig]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 1.5),
        ("num_train_epochs", 0),
        ("max_steps", 0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("lr_scheduler_type", "polynomial"),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
        ("max_grad_norm", 0),
        ("max_length", 1),
        ("seed", -1),
        ("logging_steps", 0),
        ("eval_steps", 0),
        ("save_total_limit", 0),
    ],
)
def test_bad_values_are_named(config, name, value):
    with pytest.raises(ValueError, match=f"{name}.* must be .*got {value!r}"):
        config(**{name: value})


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (SFTConfig, {"bf16": True, "fp16": True}, "bf16 and fp16 cannot both be on"),
        (SFTConfig, {"save_steps": 5}, "save_steps needs an output_dir"),
        (RewardConfig, {"center_rewards_coefficient": -1}, "center_rewards_coefficient must be at least 0"),
        (DPOConfig, {"beta": 0}, "beta must be above 0"),
        (DPOConfig, {"loss_type": "kto"}, "loss_type must be one of 'sigmoid', 'hinge', 'robust', 'ipo', got 'kto'"),
        (DPOConfig, {"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5"),
        (DPOConfig, {"loss_type": "hinge", "label_smoothing": 0.1}, "loss_type 'hinge' has no label_smoothing"),
        (DPOConfig, {"loss_type": "ipo", "label_smoothing": 0.1}, "loss_type 'ipo' has no label_smoothing"),
        (DPOConfig, {"loss_type": "ipo", "reference_free": True}, "loss_type 'ipo' has no reference_free form"),
        (KTOConfig, {"beta": 0}, "beta must be above 0"),
        (KTOConfig, {"desirable_weight": -1}, "desirable_weight must be at least 0"),
        (KTOConfig, {"undesirable_weight": -1}, "undesirable_weight must be at least 0"),
        (KTOConfig, {"per_device_train_batch_size": 1}, "must be at least 2, got 1: KTO compares each example"),
        (OnlineDPOConfig, {"loss_type": "kto"}, "loss_type must be one of"),
        (OnlineDPOConfig, {"temperature": 0}, "temperature must be above 0"),
        (OnlineDPOConfig, {"max_new_tokens": 0}, "max_new_tokens must be"),
        (OnlineDPOConfig, {"missing_eos_penalty": -1}, "missing_eos_penalty must be at least 0"),
        (PPOConfig, {"num_ppo_epochs": 0}, "num_ppo_epochs must be a whole number of at least 1"),
        (PPOConfig, {"num_mini_batches": 0}, "num_mini_batches must be"),
        (PPOConfig, {"response_length": 0}, "response_length must be"),
        (PPOConfig, {"value_warmup_steps": -1}, "value_warmup_steps must be"),
        (PPOConfig, {"kl_coef": -0.1}, "kl_coef must be at least 0"),
        (PPOConfig, {"cliprange": 1.0}, "cliprange must be above 0 and below 1"),
        (PPOConfig, {"cliprange_value": 0}, "cliprange_value must be above 0"),
        (PPOConfig, {"temperature": 0}, "temperature must be above 0"),
        (PPOConfig, {"gamma": 1.1}, "gamma must be at least 0 and at most 1"),
        (PPOConfig, {"lam": -0.1}, "lam must be at least 0 and at most 1"),
        (PPOConfig, {"missing_eos_penalty": -1}, "missing_eos_penalty must be at least 0"),
        (PPOConfig, {"target_kl": 0}, "target_kl must be above 0"),
        (PPOConfig, {"target_kl": 6, "kl_coef": 0}, "kl_coef .* must be above 0"),
        (PPOConfig, {"target_kl": 6, "kl_horizon": 63}, "kl_horizon .* must be a whole number of at least 64"),
        (GRPOConfig, {"num_generations": 1}, "num_generations must be a whole number of at least 2"),
        (GRPOConfig, {"num_generations": 7}, "must be a multiple of num_generations 7, .* got 64 answers"),
        (GRPOConfig, {"num_iterations": 0}, "num_iterations must be"),
        (GRPOConfig, {"beta": -0.1}, "beta must be at least 0"),
        (GRPOConfig, {"epsilon": 1.0}, "epsilon must be above 0 and below 1"),
        (GRPOConfig, {"epsilon_high": 0}, "epsilon_high must be above 0"),
        (GRPOConfig, {"loss_type": "ppo"}, "loss_type must be one of 'dapo', 'grpo', 'bnpo', 'dr_grpo', got 'ppo'"),
        (GRPOConfig, {"scale_rewards": "std"}, "scale_rewards must be one of 'group', 'batch', 'none', got 'std'"),
        (GRPOConfig, {"max_completion_length": 0}, "max_completion_length must be"),
        (GRPOConfig, {"temperature": 0}, "temperature must be above 0"),
    ],
)
def test_bad_values_of_a_method(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_survive_json_and_whole_numbers_are_whole(config):
    settings = config(per_device_train_batch_size=8.0, max_steps=3.0, output_dir="runs")
    assert type(settings.per_device_train_batch_size) is type(settings.max_steps) is int
    assert config(**json.loads(json.dumps(settings.to_dict()))) == settings


def test_names_must_be_given():
    with pytest.raises(TypeError):
        SFTConfig("runs")
    with pytest.raises(TypeError, match="beta"):
        SFTConfig(beta=0.1)
    with pytest.raises(TypeError, match="learning_rate must be a number, got str"):
        SFTConfig(learning_rate="1e-3")


def test_which_settings_differ_from_their_defaults():
    assert DPOConfig(beta=0.2, loss_type="hinge").non_default(("loss_type", "reference_free")) == ["loss_type"]
