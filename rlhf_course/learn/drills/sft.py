"""Drills of lesson 02: the next-token loss, by hand."""

from math import exp, log
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _loss(stream: Random) -> Question:
    """The masked mean of −log p over a completion of two tokens, with a prompt and padding around it."""
    prompt, first, second, pad = stream.sample([0.9, 0.8, 0.5, 0.4, 0.25, 0.2, 0.1, 0.05], 4)
    right = -(log(first) + log(second)) / 2
    return Question(
        "sft.loss_drill",
        f"A model gave these probabilities to the tokens of one row: prompt {prompt}, completion {first} and "
        f"{second} (the second is the end mark), padding {pad}. What is the SFT loss?",
        (
            Option(
                f"{right:.3f}",
                f"−(log {first} + log {second}) / 2: the two completion tokens, the end mark included, and no other.",
                correct=True,
            ),
            Option(
                f"{-(log(first) + log(second)) / 4:.3f}",
                "The sum is right, but it was divided by all four positions. Divide by the tokens that count.",
            ),
            Option(
                f"{-(log(prompt) + log(first) + log(second)) / 3:.3f}",
                "That also trains the model to write the prompt. The mask leaves it out.",
            ),
            Option(
                f"{-log((first + second) / 2):.3f}",
                "That is the logarithm of the mean probability. The loss is the mean of the logarithms: "
                "a sequence's probability is a product.",
            ),
        ),
    )


def _perplexity(stream: Random) -> Question:
    """From a loss in nats to a perplexity."""
    loss = stream.choice([0.7, 1.1, 1.4, 1.6, 2.1, 2.3])
    return Question(
        "sft.perplexity_drill",
        f"The SFT loss is {loss} nats per token. Among how many equally likely words is the model "
        f"guessing, so to speak?",
        (
            Option(
                f"{exp(loss):.1f}",
                f"e^{loss} = {exp(loss):.1f}, the perplexity: a uniform guess among n words costs log n nats.",
                correct=True,
            ),
            Option(
                f"{2**loss:.1f}",
                "2 to the loss is for bits. PyTorch's logarithms are natural, so the loss is in nats.",
            ),
            Option(
                f"{1 / loss:.1f}",
                "One over the loss has no meaning: the loss is a logarithm, so the way back is an exponential.",
            ),
            Option(
                f"{exp(-loss):.2f}",
                "That is the (geometric) mean probability of a token. The number of words is one over it.",
            ),
        ),
    )


DRILLS = [Drill("sft.loss_drill", _loss), Drill("sft.perplexity_drill", _perplexity)]
