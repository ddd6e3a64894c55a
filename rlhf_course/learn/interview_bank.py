"""The interview questions, one file a topic in `interviews/<topic>.toml`, and how one looks without a widget."""

import html
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from rlhf_course.learn.question import as_html
from rlhf_course.learn.topics import TOPICS, unknown


@dataclass(frozen=True)
class FollowUp:
    """What the interviewer asks next, and a good answer to it."""

    question: str
    answer: str


@dataclass(frozen=True)
class InterviewQuestion:
    """One question of an interview.

    Attributes:
        id: "ppo.gae"; the part before the dot is the topic.
        stars: 1 (asked of everyone) to 3 (asked of a specialist).
        text: the question.
        answer: what an excellent candidate would say.
        points: the rubric; each line is worth one point.
        follow_ups: one or two.
        sources: where the answer's facts are from: papers of the reading list, and lessons.
    """

    id: str
    stars: int
    text: str
    answer: str
    points: tuple[str, ...]
    follow_ups: tuple[FollowUp, ...]
    sources: tuple[str, ...]

    @property
    def topic(self) -> str:
        """The lesson's topic that the question belongs to."""
        return self.id.split(".")[0]

    @property
    def heading(self) -> str:
        """The difficulty, in stars and in words, and the topic."""
        return f"{'★' * self.stars} ({self.stars} of 3) · {self.topic}"

    def to_html(self) -> str:
        """The question alone."""
        return f"<p>{self.heading}</p><p><b>{as_html(self.text)}</b></p>"

    def answer_to_html(self) -> str:
        """The model answer and its sources."""
        sources = html.escape("; ".join(self.sources))
        return f"<p><b>A model answer.</b> {as_html(self.answer)}</p><p><small>Sources: {sources}.</small></p>"

    def follow_ups_to_html(self) -> str:
        """Each follow-up, its answer behind a fold."""
        return "".join(
            f"<p><b>And then?</b> {as_html(follow_up.question)}</p>"
            f"<details><summary>A good answer</summary><p>{as_html(follow_up.answer)}</p></details>"
            for follow_up in self.follow_ups
        )

    def to_static_html(self) -> str:
        """All of it for a page without widgets, everything but the question behind a fold."""
        points = "".join(f"<li>{as_html(point)}</li>" for point in self.points)
        return (
            f"{self.to_html()}<details><summary>Answer, rubric and follow-up</summary>{self.answer_to_html()}"
            f"<p><b>A point each for saying that</b></p><ul>{points}</ul>{self.follow_ups_to_html()}</details>"
        )


@cache
def interview_bank() -> dict[str, InterviewQuestion]:
    """Every question by its id, in the order of the lessons and files."""
    found = {}
    for topic in TOPICS:
        file = resources.files(__package__) / "interviews" / f"{topic}.toml"
        if file.is_file():
            for entry in tomllib.loads(file.read_text(encoding="utf-8"))["interview"]:
                question = _question(entry)
                found[question.id] = question
    return found


def select(topic: str | None = None, stars: int | None = None) -> list[InterviewQuestion]:
    """The questions of a topic (None: all topics) and a difficulty (None: all).

    Raises ValueError for a topic that has no questions or a difficulty that there is not.
    """
    topics = {question.topic for question in interview_bank().values()}
    if topic is not None and topic not in topics:
        raise unknown("topic", topic, topics)
    if stars not in (None, 1, 2, 3):
        raise ValueError(f"stars must be 1, 2, 3 or None, got {stars!r}")
    return [q for q in interview_bank().values() if topic in (None, q.topic) and stars in (None, q.stars)]


def _question(entry: dict) -> InterviewQuestion:
    return InterviewQuestion(
        entry["id"],
        entry["stars"],
        _one_line(entry["question"]),
        _one_line(entry["answer"]),
        tuple(map(_one_line, entry["points"])),
        tuple(FollowUp(_one_line(f["question"]), _one_line(f["answer"])) for f in entry["follow_ups"]),
        tuple(entry["sources"]),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
