"""Five systems in miniature: `rlhf-course recipe NAME`, each in under two minutes on the small world.

A recipe is a module with a `run(kitchen)`: the paper's stages in their order, in the course's own pieces. Where the
paper does otherwise than the course's defaults, the recipe does as the paper, and says so.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from rlhf_course._checks import check_choice, check_number
from rlhf_course.data.world import world_tokenizer
from rlhf_course.evaluation import evaluate_policy
from rlhf_course.models import load_policy
from rlhf_course.seeding import derive_seed

#: Each recipe's name and whose system it is.
RECIPES = {
    "instructgpt": "InstructGPT (Ouyang et al. 2022)",
    "llama2": "Llama 2-Chat (Touvron et al. 2023)",
    "zephyr": "Zephyr (Tunstall et al. 2023)",
    "deepseek": "DeepSeekMath and R1 (Shao et al. 2024; Guo et al. 2025)",
    "claude": "Constitutional AI (Bai et al. 2022)",
}


@dataclass(frozen=True)
class Step:
    """A stage of a recipe: its name, its policy, and what that policy is worth.

    `gold` is the mean gold reward of 256 fresh answers; `kl`, nats an answer from the recipe's first stage; `note`,
    what else there is to say, in numbers.
    """

    name: str
    policy: nn.Module = field(repr=False)
    gold: float
    kl: float
    note: str = ""


class Kitchen:
    """What a recipe works with: the base model, a seed, how much of everything; and the steps done so far.

    Attributes:
        base: the pre-trained model. It stays as it is.
        seed: of all data, samples and training.
        scale: share of the data and of the steps of RL; 1 is the recipe, less is quicker and worse.
        steps: the steps done.
        quiet: settings for every trainer.
    """

    def __init__(self, base: nn.Module, seed: int, scale: float, say: Callable[[str], None]):
        self.base, self.seed, self.scale, self.say = base, seed, scale, say
        self.steps: list[Step] = []
        self.quiet = {"disable_tqdm": True, "use_cpu": base.device.type == "cpu"}

    def part(self, count: int, at_least: int = 8) -> int:
        """A share of a number of rows or steps."""
        return max(round(count * self.scale), at_least)

    def done(self, name: str, policy: nn.Module, note: str = "") -> nn.Module:
        """Judge a stage's policy, keep the step, tell about it, and hand the policy on."""
        first = self.steps[0].policy if self.steps else policy
        found = evaluate_policy(
            policy, world_tokenizer(), ref_model=first, n=256, seed=derive_seed(self.seed, "fresh answers")
        )
        self.steps.append(Step(name, policy, found["gold"], found["kl"], note))
        far = f"KL {found['kl']:5.2f}" if len(self.steps) > 1 else " " * 8
        self.say(f"{name:36} gold {found['gold']:5.2f}   {far}   {note}".rstrip())
        return policy


def about(name: str) -> str:
    """What a recipe does, and where it does otherwise than its paper."""
    return _module(name).__doc__.split("\n", 2)[2].strip()


def cook(
    name: str,
    base: nn.Module | None = None,
    seed: int = 0,
    scale: float = 1.0,
    say: Callable[[str], None] = print,
) -> list[Step]:
    """Run a recipe from a pre-trained model, the shipped "tiny-base" if left out.

    Args:
        name: one of `RECIPES`.
        scale: above 0, at most 1.
        say: told about every step as it is done.

    Returns:
        The steps in order, their policies included.
    """
    module = _module(name)
    check_number("scale", scale, low=0, high=1, low_open=True)
    kitchen = Kitchen(load_policy("tiny-base")[0] if base is None else base, seed, scale, say)
    module.run(kitchen)
    return kitchen.steps


def _module(name: str):
    return importlib.import_module(f"{__name__}.{check_choice('recipe', name, tuple(RECIPES))}")
