"""The same prompts, answered by several models: a table to read across."""

import html
import textwrap
from collections.abc import Mapping, Sequence

from torch import nn

from rlhf_course.data.world import concept_of, gold_reward, world_tokenizer
from rlhf_course.evaluation import Answer, sample_answers


class SideBySide:
    """One answer of each model to each prompt of the small world, with the gold reward beside it.

    A notebook shows it as a table, a row a prompt and a column a model.

    Args:
        models: the policies by name.
        prompts: prompts of the small world.
        seed: of the sampling; every model draws the same random numbers.

    Attributes:
        answers: {name: answers, in the order of the prompts}.
        gold: {name: their gold rewards}.
    """

    def __init__(self, models: Mapping[str, nn.Module], prompts: Sequence[str], seed: int = 0):
        self.prompts = list(prompts)
        self.answers = {
            name: sample_answers(model, world_tokenizer(), self.prompts, seed) for name, model in models.items()
        }
        self.gold = {name: [_gold(answer) for answer in answers] for name, answers in self.answers.items()}

    def __repr__(self) -> str:
        lines = []
        for i, prompt in enumerate(self.prompts):
            lines.append(f"explain {concept_of(prompt).name}")
            for name, answers in self.answers.items():
                label = f"  {name:6}{self.gold[name][i]:6.2f}  "
                lines.append(textwrap.fill(_text(answers[i]), 110, initial_indent=label, subsequent_indent=" " * 16))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        top = 'style="text-align: left; vertical-align: top"'
        head = "".join(f'<th scope="col" {top}>{html.escape(name)}</th>' for name in self.answers)
        rows = []
        for i, prompt in enumerate(self.prompts):
            cells = "".join(
                f"<td {top}>{html.escape(_text(answers[i]))}<br><b>gold {self.gold[name][i]:+.2f}</b></td>"
                for name, answers in self.answers.items()
            )
            rows.append(f'<tr><th scope="row" {top}>explain {html.escape(concept_of(prompt).name)}</th>{cells}</tr>')
        return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _gold(answer: Answer) -> float:
    return gold_reward(answer.prompt, answer.text, ended=answer.ended)


def _text(answer: Answer) -> str:
    return answer.text if answer.ended else f"{answer.text} …"
