"""Reward, value and ensemble models, on tiny random models with rotary and with learnt positions."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from rlhf_course.models import RewardEnsemble, RewardModel, ValueModel, combine_rewards

PAD, EOS = 0, 1
TEXTS = [[5, 6, 7, EOS], [8, 9, EOS], [10, 11, 12, 13, 14, EOS], [15]]


def llama(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=32, pad_token_id=PAD, eos_token_id=EOS, **{**sizes, **changes})
    return LlamaForCausalLM(config).eval()


def gpt2(seed=0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=PAD, eos_token_id=EOS
    )
    model = GPT2LMHeadModel(config)
    # As drawn, positions hardly count; a trained model's do.
    torch.nn.init.normal_(model.transformer.wpe.weight, std=1.0)
    return model.eval()


def padded(texts, side, pad=PAD):
    longest = max(map(len, texts))
    rows, masks = [], []
    for ids in texts:
        gap = longest - len(ids)
        rows.append([pad] * gap + ids if side == "left" else ids + [pad] * gap)
        masks.append([0] * gap + [1] * len(ids) if side == "left" else [1] * len(ids) + [0] * gap)
    return torch.tensor(rows), torch.tensor(masks)


@pytest.fixture(params=[llama, gpt2], ids=["llama", "gpt2"])
def policy(request):
    return request.param()


def one_by_one(policy, seed=3):
    """Rewards by hand, text after text without padding: body, last position, head."""
    head = RewardModel.from_policy(policy, seed=seed).model.score.weight[0]
    with torch.no_grad():
        hidden = [policy.base_model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in TEXTS]
        return torch.stack([h @ head for h in hidden])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad", [PAD, EOS, 20])
def test_reward_is_read_at_the_last_real_token(policy, side, pad):
    """Whatever pads, the end-of-sequence token included, on either side (traps 4 and 5)."""
    reward_model = RewardModel.from_policy(policy, seed=3)
    with torch.no_grad():
        rewards = reward_model(*padded(TEXTS, side, pad))
    assert rewards.shape == (len(TEXTS),)
    torch.testing.assert_close(rewards, one_by_one(policy), atol=1e-6, rtol=1e-4)
    assert rewards.std() > 1e-3


def test_unneeded_padding_changes_nothing(policy):
    reward_model = RewardModel.from_policy(policy, seed=0)
    ids, mask = padded(TEXTS, "right")
    wide = torch.cat([ids, torch.full((len(ids), 3), 9)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(len(ids), 3, dtype=torch.long)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(reward_model(wide, wide_mask.bool()), reward_model(ids, mask))


def test_reward_model_from_policy(policy):
    state = torch.get_rng_state()
    reward_model = RewardModel.from_policy(policy, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    body = reward_model.model.base_model.state_dict()
    for name, weight in policy.base_model.state_dict().items():
        assert torch.equal(body[name], weight)
        assert body[name].data_ptr() != weight.data_ptr()
    head = reward_model.model.score
    assert head.bias is None
    same, other = (RewardModel.from_policy(policy, seed=seed).model.score.weight for seed in (0, 1))
    assert torch.equal(head.weight, same) and not torch.equal(head.weight, other)
    assert not reward_model.training
    assert policy.config.num_labels == 2, "the policy's own configuration must stay as it was"


def test_loss_starts_near_log_two(policy):
    """A new head says little, so that the first gradients do not come from chance."""
    reward_model = RewardModel.from_policy(policy, seed=0)
    with torch.no_grad():
        rewards = reward_model(*padded(TEXTS, "right"))
    assert -logsigmoid(rewards[0] - rewards[1]).item() == pytest.approx(math.log(2), abs=0.2)


def test_saved_reward_model_is_a_plain_sequence_classifier(policy, tmp_path):
    reward_model = RewardModel.from_policy(policy, seed=0)
    reward_model.save_pretrained(tmp_path)
    ids, mask = padded(TEXTS, "right")
    with torch.no_grad():
        expected = reward_model(ids, mask)
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(plain(ids, attention_mask=mask).logits[:, 0], expected)
        torch.testing.assert_close(RewardModel.from_pretrained(tmp_path)(ids, mask), expected)


def test_a_policy_is_not_taken_for_a_reward_model(tmp_path):
    llama().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no scalar head"):
        RewardModel.from_pretrained(tmp_path, num_labels=1)


def test_reward_model_learns_with_gradient_checkpointing(policy):
    gradients = []
    for checkpointing in (False, True):
        reward_model = RewardModel.from_policy(policy, seed=0).train()
        for module in reward_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            reward_model.gradient_checkpointing_enable()
        chosen, rejected = reward_model(*padded(TEXTS, "right")).chunk(2)
        (-logsigmoid(chosen - rejected).mean()).backward()
        gradients.append([p.grad for p in reward_model.parameters() if p.grad is not None])
    assert gradients[0] and max(g.abs().max() for g in gradients[0]) > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_reward_model_around_lora():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    plain = RewardModel.from_policy(llama(), seed=0)
    ids, mask = padded(TEXTS, "left")
    with torch.no_grad():
        expected = plain(ids, mask)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "v_proj"])
    reward_model = RewardModel(peft.get_peft_model(plain.model, config))
    with torch.no_grad():
        torch.testing.assert_close(reward_model.eval()(ids, mask), expected)
    reward_model.train()(ids, mask).sum().backward()
    trained = {name for name, p in reward_model.named_parameters() if p.grad is not None}
    assert any("lora_B" in name for name in trained)
    assert any("score" in name for name in trained)
    assert not any("base_layer" in name for name in trained)


def test_half_precision_rewards_come_in_float32():
    reward_model = RewardModel.from_policy(llama().bfloat16(), seed=0)
    assert reward_model.model.score.weight.dtype == torch.bfloat16
    assert reward_model(*padded(TEXTS, "right")).dtype == torch.float32


@pytest.mark.parametrize("side", ["right", "left"])
def test_values(policy, side):
    value_model = ValueModel.from_policy(policy, seed=3)
    ids, mask = padded(TEXTS, side)
    with torch.no_grad():
        values = value_model(ids, mask)
        rewards = RewardModel.from_policy(policy, seed=3)(ids, mask)
    assert values.shape == ids.shape
    assert (values[mask == 0] == 0).all()
    for i, text in enumerate(TEXTS):
        real = values[i][mask[i] == 1]
        assert len(real) == len(text)
        torch.testing.assert_close(real[-1], rewards[i])
        with torch.no_grad():  # a value has seen nothing of what comes after it
            prefix = value_model(torch.tensor([text[:2]]), torch.ones(1, len(text[:2]), dtype=torch.long))
        torch.testing.assert_close(prefix[0], real[:2], atol=1e-6, rtol=1e-4)


def test_value_model_from_reward_model_is_a_copy(policy):
    reward_model = RewardModel.from_policy(policy, seed=0)
    value_model = ValueModel.from_reward_model(reward_model)
    ids, mask = torch.tensor([[4, 5, 6]]), torch.ones(1, 3, dtype=torch.long)
    with torch.no_grad():
        before = reward_model(ids, mask)
        torch.testing.assert_close(value_model(ids, mask)[:, -1], before)
        value_model.model.score.weight.add_(1.0)
        torch.testing.assert_close(reward_model(ids, mask), before)
    with pytest.raises(TypeError, match="reward_model must be a RewardModel"):
        ValueModel.from_reward_model(value_model)


def test_ensemble():
    models = [RewardModel.from_policy(llama(), seed=seed) for seed in range(3)]
    ids, mask = padded(TEXTS, "right")
    with torch.no_grad():
        single = torch.stack([model(ids, mask) for model in models])
        assert torch.equal(RewardEnsemble(models, "wco")(ids, mask), single.min(dim=0).values)
        torch.testing.assert_close(RewardEnsemble(models)(ids, mask), single.sum(dim=0) / 3)
    assert len(list(RewardEnsemble(models).parameters())) == 3 * len(list(models[0].parameters()))


def test_combined_rewards_known_answers():
    rewards = torch.tensor([[1.0, 0.0], [3.0, 0.0], [8.0, 0.0]])
    assert combine_rewards(rewards, "mean").tolist() == [4.0, 0.0]
    assert combine_rewards(rewards, "wco").tolist() == [1.0, 0.0]
    # Population variance: (9 + 1 + 16) / 3.
    torch.testing.assert_close(combine_rewards(rewards, "uwo", 0.3), torch.tensor([4 - 0.3 * 26 / 3, 0.0]))
    assert combine_rewards(rewards[:1], "uwo", 5.0).tolist() == [1.0, 0.0]


def test_refusals():
    model = RewardModel.from_policy(llama(), seed=0)
    ids, mask = padded(TEXTS, "right")
    with pytest.raises(ValueError, match="attention_mask must have a 1 in every row"):
        model(ids, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="one shape"):
        model(ids, mask[:, 1:])
    with pytest.raises(ValueError, match="input_ids must have 2"):
        model(ids[0], mask[0])
    with pytest.raises(TypeError, match="policy_model must be a causal language model"):
        RewardModel.from_policy(torch.nn.Linear(2, 2), seed=0)
    with pytest.raises(TypeError, match="AutoModelForSequenceClassification"):
        RewardModel(llama())
    two_labels = AutoModelForSequenceClassification.from_config(LlamaConfig(**{**llama().config.to_dict()}))
    with pytest.raises(ValueError, match="num_labels=1"):
        RewardModel(two_labels)
    with pytest.raises(ValueError, match="method must be one of 'mean', 'wco', 'uwo'"):
        RewardEnsemble([model], "median")
    with pytest.raises(ValueError, match="weight must be at least 0"):
        RewardEnsemble([model], "uwo", weight=-1)
    with pytest.raises(ValueError, match="models must be one or more"):
        RewardEnsemble([])
    with pytest.raises(ValueError, match="at least one model"):
        combine_rewards(torch.zeros(0, 3))
