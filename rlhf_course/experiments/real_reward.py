"""Lesson 03's reward model on a real language model: eight comparisons, and two answers it has not seen."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_course.data.collators import collate_sft
from rlhf_course.data.tokenize import encode_prompt_completion
from rlhf_course.models import RewardModel, load_policy, weights_note
from rlhf_course.trainers.reward import RewardConfig, RewardTrainer

#: What to explain, in plain words and in jargon.
COMPARISONS = (
    (
        "a black hole",
        "It is a place where gravity has won. Think of a drain so strong that not even light can swim away from it.",
        "It is a region bounded by a null hypersurface whose trapped surfaces satisfy the Penrose conditions.",
    ),
    (
        "photosynthesis",
        "Plants cook with sunlight. They take water and air, use light as the fire, and keep the sugar for later.",
        "Photolysis of water reduces plastoquinone; the chemiosmotic gradient then drives phosphorylation of ADP.",
    ),
    (
        "the immune system",
        "Think of castle guards. They patrol all day, throw out strangers, and never forget a face.",
        "Antigen presentation via MHC induces clonal expansion of cognate lymphocytes and affinity maturation.",
    ),
    (
        "inflation",
        "The same coin buys less than last year. Imagine every price tag in the shop growing a little each night.",
        "It is the log-derivative of the deflator, decomposed into expectations and a marginal-cost wedge.",
    ),
    (
        "a neural network",
        "It is a crowd that votes. Each voter hears a few others, and training teaches whom to listen to.",
        "It is a composition of affine maps and pointwise nonlinearities fitted by stochastic first-order methods.",
    ),
    (
        "ocean tides",
        "The moon tugs at the sea. As the earth turns beneath it, the water sloshes to and fro, as in a bathtub.",
        "They are the response of a rotating fluid shell to the degree-two harmonic of the lunisolar potential.",
    ),
    (
        "blood pressure",
        "It is how hard the blood pushes on its pipes. Squeeze a garden hose, and you can feel the same thing.",
        "It is the product of cardiac output and systemic resistance, modulated by baroreflex and renin.",
    ),
    (
        "encryption",
        "You lock a letter in a box, and only your friend has the key. Anyone may carry the box.",
        "A keyed permutation family is applied such that ciphertexts are computationally indistinguishable.",
    ),
)

#: The worked example of lesson 03: two answers to "Explain quantum entanglement."
ENTANGLEMENT = {
    "A (jargon)": (
        "Entanglement is the non-separability of a composite system's joint wavefunction: a measurement on one "
        "subsystem collapses the superposition of the other at any distance."
    ),
    "B (clear)": (
        "Think of two magic coins, one in New York, one in Tokyo. Whenever both are tossed, they land on opposite "
        "sides. Neither sends the other a message. They are simply one thing in two places."
    ),
}


def train_on_eight_comparisons(loss_fn: Callable[[Tensor, Tensor], Tensor], model_name: str = "smollm2-135m") -> str:
    """Put a head on a real model, train it on `COMPARISONS`, score `ENTANGLEMENT`; returns what came of it, in words.

    `loss_fn` is called as in `RewardTrainer`. Takes about a minute on a GPU.
    """
    policy, tokenizer = load_policy(model_name)
    model = RewardModel.from_policy(policy, seed=0)
    rows = [
        {"prompt": _prompt(thing), "chosen": _answer(clear), "rejected": _answer(jargon)}
        for thing, clear, jargon in COMPARISONS
    ]
    args = RewardConfig(per_device_train_batch_size=4, max_steps=12, learning_rate=2e-5, warmup_steps=2)
    RewardTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer, loss_fn=loss_fn).train()

    names = ("prompt_ids", "completion_ids")
    prompt = _prompt("quantum entanglement")
    encoded = [
        dict(zip(names, encode_prompt_completion(tokenizer, prompt, _answer(text)))) for text in ENTANGLEMENT.values()
    ]
    batch = collate_sft(encoded, tokenizer.pad_token_id)
    with torch.no_grad():
        scores = model.eval()(batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device))
    lines = [f"{name}: {score:.2f}" for name, score in zip(ENTANGLEMENT, scores.tolist())]
    lines.append(f"P(B ≻ A) = {torch.sigmoid(scores[1] - scores[0]).item():.3f}")
    if note := weights_note(policy):
        lines.append(f"({model_name}, {note})")
    return "\n".join(lines)


def _prompt(thing: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Explain {thing}."}]


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
