"""What a quiz's question is, and how it looks without a widget."""

import html
import random
import re
from dataclasses import dataclass

#: The marks that texts of the bank may bear: `code`, **bold**, *emphasis*. The star of π* and of a * b opens nothing.
_MARKS = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|(?<![\w*])\*\*(?P<b>[^\s*].*?)\*\*(?![\w*])"
    r"|(?<![\w*])\*(?P<em>[^\s*](?:[^*]*[^\s*])?)\*(?![\w*])",
    re.DOTALL,
)


def as_html(text: str) -> str:
    """Text of the bank as HTML: escaped, its marks of code, bold and emphasis as tags."""
    return _marked(html.escape(text))


def _marked(text: str) -> str:
    def tag(mark: re.Match) -> str:
        name, inner = mark.lastgroup, mark[mark.lastgroup]
        return f"<{name}>{inner if name == 'code' else _marked(inner)}</{name}>"

    return _MARKS.sub(tag, text)


@dataclass(frozen=True)
class Option:
    """One answer: its text, whether it is the right one, and why (or what it mistakes)."""

    text: str
    why: str
    correct: bool = False


@dataclass(frozen=True)
class Question:
    """A question with three to five options, exactly one of them right."""

    id: str
    text: str
    options: tuple[Option, ...]

    def shuffled(self, stream: random.Random) -> "Question":
        """The same question with its options in a random order."""
        return Question(self.id, self.text, tuple(stream.sample(self.options, len(self.options))))

    @property
    def numbered(self) -> dict[str, Option]:
        """{"1": the first option, "2": the second, …}. (Letters are for the answers that lessons compare.)"""
        return {str(number): option for number, option in enumerate(self.options, 1)}

    def to_html(self) -> str:
        """The question and its numbered options."""
        items = "".join(f"<li>{as_html(option.text)}</li>" for option in self.options)
        return f"<p><b>{as_html(self.text)}</b></p><ol>{items}</ol>"

    def answers_to_html(self, without: str | None = None) -> str:
        """Every option's reason, as a list; `without` leaves one number out."""
        items = [
            f"<li><b>{number} is {'right' if option.correct else 'wrong'}.</b> {as_html(option.why)}</li>"
            for number, option in self.numbered.items()
            if number != without
        ]
        return f"<ul>{''.join(items)}</ul>"

    def to_static_html(self) -> str:
        """The whole question for a page without widgets, its answers behind a fold."""
        return f"{self.to_html()}<details><summary>Answers</summary>{self.answers_to_html()}</details>"

    def to_text(self) -> str:
        """The question as plain text, without the answers."""
        options = [f"  {number}. {option.text}" for number, option in self.numbered.items()]
        return "\n".join([self.text, *options])
