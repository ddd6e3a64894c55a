"""Drills of lesson 08: advantages of a group, with and without the spread, and what a token weighs."""

from math import sqrt
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _group(stream: Random) -> Question:
    """GRPO's advantage of one answer among four that a rule has judged."""
    passed = stream.randint(1, 3)
    rewards = [1] * passed + [0] * (4 - passed)
    stream.shuffle(rewards)
    mean, own = passed / 4, rewards[0]
    squares = sum((r - mean) ** 2 for r in rewards)
    std, population = sqrt(squares / 3), sqrt(squares / 4)
    others = (passed - own) / 3
    return Question(
        "grpo.group_drill",
        f"A rule gives four answers to one prompt the rewards {', '.join(map(str, rewards))}. What is the first "
        "answer's advantage in GRPO?",
        (
            Option(
                f"{(own - mean) / std:+.3f}",
                f"Mean {mean}, spread √({squares:.2f}/3) = {std:.3f}: ({own} − {mean})/{std:.3f}.",
                correct=True,
            ),
            Option(
                f"{(own - mean) / population:+.3f}",
                f"The spread was taken with G, √({squares:.2f}/4) = {population:.3f}. GRPO's has G − 1.",
            ),
            Option(
                f"{own - mean:+.3f}",
                "That is the distance from the mean, as Dr. GRPO has it. GRPO divides by the spread as well.",
            ),
            Option(
                f"{own - others:+.3f}",
                "That is RLOO's: the distance from the mean of the other three, not divided by the spread.",
            ),
        ),
    )


def _leave_one_out(stream: Random) -> Question:
    """RLOO's advantage of one answer among four with real-valued rewards."""
    rewards = [stream.randint(0, 8) / 2 for _ in range(4)]
    own, total = rewards[0], sum(rewards)
    others = (total - own) / 3
    return Question(
        "grpo.rloo_drill",
        f"Four answers to one prompt score {', '.join(map(str, rewards))}. What is the first answer's advantage in "
        "RLOO?",
        (
            Option(
                f"{own - others:+.3f}",
                f"The other three have {total - own} together, {others:.3f} on average; {own} − {others:.3f}.",
                correct=True,
            ),
            Option(
                f"{own - total / 4:+.3f}",
                "That is the distance from the mean of all four. The answer's own reward is not to be in its baseline.",
            ),
            Option(
                f"{own - (total - own) / 4:+.3f}",
                "The others' sum was divided by four. There are three of them.",
            ),
            Option(
                f"{others - own:+.3f}",
                "The sign is turned round: an answer that beats the others should get a positive advantage.",
            ),
        ),
    )


def _weight(stream: Random) -> Question:
    """What a token of the longer of two answers weighs in the loss."""
    short = stream.choice([5, 10, 20])
    factor = stream.choice([2, 3, 4])
    long, both = short * factor, short * (factor + 1)
    kind = stream.choice(["grpo", "dapo"])
    grpo, dapo = f"1/{2 * long}", f"1/{both}"
    right = {"grpo": grpo, "dapo": dapo}[kind]
    why = {
        "grpo": f"Each answer counts 1/2, and the long one's half is shared by its {long} tokens.",
        "dapo": f"There are {both} tokens in all, and each weighs the same, whatever answer it stands in.",
    }
    other = "dapo" if kind == "grpo" else "grpo"
    return Question(
        "grpo.weight_drill",
        f"A batch has two answers, of {short} and of {long} tokens. With loss type '{kind}', what does one token of "
        "the long answer weigh in the loss?",
        (
            Option(right, why[kind], correct=True),
            Option(
                {"grpo": grpo, "dapo": dapo}[other],
                f"That is '{other}': {why[other][0].lower()}{why[other][1:]}",
            ),
            Option(f"1/{long}", "That would be the mean over this answer alone. The batch has two."),
            Option(
                f"1/{2 * short}",
                "That is a token of the *short* answer where answers count alike. This one stands in the long one.",
            ),
        ),
    )


DRILLS = [
    Drill("grpo.group_drill", _group),
    Drill("grpo.rloo_drill", _leave_one_out),
    Drill("grpo.weight_drill", _weight),
]
