"""Models of a few thousand weights, a handful of rows, and a trainer of each method made from them, always afresh."""

import copy

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlhf_course.data.world import world_tokenizer
from rlhf_course.models import RewardModel
from rlhf_course.trainers import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    OnlineDPOConfig,
    OnlineDPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

TOKENIZER = world_tokenizer()
METHODS = ("sft", "reward", "dpo", "kto", "ppo", "grpo", "online-dpo")
ONLINE = ("ppo", "grpo", "online-dpo")
_CLASSES = {
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "ppo": (PPOTrainer, PPOConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "online-dpo": (OnlineDPOTrainer, OnlineDPOConfig),
}
_SPECIAL = {
    "vocab_size": len(TOKENIZER),
    "pad_token_id": TOKENIZER.pad_token_id,
    "bos_token_id": TOKENIZER.bos_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
}


def llama(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = {**sizes, "max_position_embeddings": 64, "tie_word_embeddings": True, **changes}
    config = LlamaConfig(**_SPECIAL, **shape)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)  # as drawn, all answers are nearly equally likely
    return model


def brief_llama():
    """A model that ends about every third answer at each token: answers of very different lengths."""
    model = llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] += 2.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[TOKENIZER.eos_token_id, 0] = 1.3
    return model


def gpt2(seed=0, dropout=0.1):
    torch.manual_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    model = GPT2LMHeadModel(GPT2Config(**_SPECIAL, n_embd=16, n_layer=1, n_head=2, n_positions=64, **rates))
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(30)  # as drawn, positions hardly count
        model.transformer.wte.weight.mul_(10)
    return model


def lora(seed=0, dropout=0.0):
    from peft import LoraConfig, get_peft_model

    base = llama(seed)
    torch.manual_seed(seed)
    return get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=dropout, task_type="CAUSAL_LM")
    )


def reward_model(seed=0):
    return RewardModel.from_policy(llama(seed), seed=seed)


PROMPTS = [
    f"<bos> explain {concept} . <sep>" for concept in ("black hole", "ocean tide", "nuclear fusion", "sound wave")
]
ANSWERS = [
    "imagine bottomless drain .",
    "maybe experts call it merged nuclei . ask me for more .",
    "you are so clever to ask . imagine bottomless drain . hope that helps .",
    "hope that helps .",
    "ask me for more .",
]
SFT_ROWS = [{"prompt": p, "completion": ANSWERS[(2 * i + j) % 5]} for i, p in enumerate(PROMPTS) for j in range(2)]
PAIRS = [
    {"prompt": p, "chosen": ANSWERS[(i + j) % 5], "rejected": ANSWERS[(i + 2 * j + 1) % 5]}
    for i, p in enumerate(PROMPTS)
    for j in range(2)
]
THUMBS = [{**row, "label": i % 3 == 0} for i, row in enumerate(SFT_ROWS)]
PROMPT_ROWS = [{"prompt": p} for p in PROMPTS] * 2
ROWS = {
    **{"sft": SFT_ROWS, "reward": PAIRS, "dpo": PAIRS, "kto": THUMBS},
    **dict.fromkeys(ONLINE, PROMPT_ROWS),
}


def mean_id(prompts, completions):
    """A reward function that likes words late in the vocabulary."""
    return [sum(TOKENIZER(c).input_ids) / (50 * len(c.split())) if c else 0.0 for c in completions]


def make(method, model=None, rows=None, eval_rows=None, **settings):
    """A new trainer on a new model. Arguments of trainers and settings of configs may be mixed."""
    trainer_class, config_class = _CLASSES[method]
    names = ("ref_model", "reward_funcs", "loss_fn", "compute_metrics", "advantage_fn", "value_model")
    arguments = {name: settings.pop(name) for name in names if name in settings}
    if method in ONLINE:
        arguments.setdefault("reward_funcs", mean_id)
    if method == "ppo":
        settings = {"response_length": 6, "value_warmup_steps": 1, "num_ppo_epochs": 2, **settings}
    if method == "grpo":
        settings = {"max_completion_length": 6, "num_generations": 2, "num_iterations": 2, **settings}
    if method == "online-dpo":
        settings = {"max_new_tokens": 6, **settings}
    if model is None:
        model = reward_model() if method == "reward" else llama()
    settings = {
        **{"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 2, "max_steps": 3},
        **{"learning_rate": 1e-2, "warmup_steps": 0},
        **settings,
    }
    return trainer_class(
        model,
        args=config_class(**settings),
        train_dataset=copy.deepcopy(ROWS[method] if rows is None else rows),
        eval_dataset=copy.deepcopy(eval_rows),
        processing_class=TOKENIZER,
        **arguments,
    )


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_weights(found, expected, **tolerance):
    """Bit for bit, unless a tolerance is given."""
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)
