"""Answers side by side: one row a question, one column a policy."""

import html
import textwrap
from collections.abc import Mapping

from rlhf_course.capstone.measure import Answers


class SideBySide:
    """The answers of several policies to the same questions, with the judge's scores.

    A notebook shows it as a table.

    Args:
        answers: by the policy's name; all to the same questions.
        rows: how many questions are shown.
    """

    def __init__(self, answers: Mapping[str, Answers], rows: int = 4):
        questions = [some.questions for some in answers.values()]
        if not questions or any(asked != questions[0] for asked in questions):
            raise ValueError("answers must hold at least one policy's, and all of them to the same questions")
        self.answers, self.questions = dict(answers), questions[0][:rows]

    def __repr__(self) -> str:
        lines = []
        for i, asked in enumerate(self.questions):
            lines.append(textwrap.shorten(asked, 110))
            for name, some in self.answers.items():
                label = f"  {name:12}{some.scores[i]:+6.2f}  "
                text = " ".join(some.texts[i].split())
                lines.append(textwrap.fill(text or "(nothing)", 110, initial_indent=label, subsequent_indent=" " * 22))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        top = 'style="text-align: left; vertical-align: top"'
        head = "".join(f'<th scope="col" {top}>{html.escape(name)}</th>' for name in self.answers)
        rows = []
        for i, asked in enumerate(self.questions):
            cells = "".join(
                f"<td {top}>{html.escape(some.texts[i])}<br><b>score {some.scores[i]:+.2f}</b></td>"
                for some in self.answers.values()
            )
            asked = html.escape(textwrap.shorten(asked, 300))
            rows.append(f'<tr><th scope="row" {top}>{asked}</th>{cells}</tr>')
        return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
