"""Quizzes and drills: one question, a few options, and a reason for every one of them.

The questions live in `quizzes/<topic>.toml`, so that a lesson's cell reads `quiz("dpo.log_ratio")` and
shows no answer. A drill makes its question afresh, with new numbers; it is asked for in the same way.

The widget uses RadioButtons, Button and HTML alone, in what ipywidgets 7.7 and 8 share. Where no widget can
live (GitHub, nbviewer, PDF) the same output shows the question, its answers behind a fold.
"""

import html
import tomllib
from functools import cache
from importlib import resources
from random import Random

import ipywidgets
from IPython.display import display

from rlhf_course.learn import progress
from rlhf_course.learn.drills import Drill, drills
from rlhf_course.learn.mime import block, widget_bundle
from rlhf_course.learn.question import Option, Question, as_html
from rlhf_course.learn.topics import TOPICS, unknown
from rlhf_course.seeding import python_stream


def quiz(quiz_id: str) -> None:
    """Show a quiz or a drill, as in `quiz("reward_model.shift")`. An unknown id prints the nearest ones."""
    if quiz_id in bank():
        QuizView(bank()[quiz_id]).show()
    elif quiz_id in drills():
        DrillView(drills()[quiz_id]).show()
    else:
        print(unknown("quiz", quiz_id, [*bank(), *drills()]))


@cache
def bank() -> dict[str, Question]:
    """Every quiz of the course by its id, in the order of the lessons and files."""
    found = {}
    for topic in TOPICS:
        file = resources.files(__package__) / "quizzes" / f"{topic}.toml"
        if file.is_file():
            found |= {question.id: question for question in read_questions(file.read_text(encoding="utf-8"))}
    return found


def read_questions(text: str) -> list[Question]:
    """The questions of a TOML text: `[[quiz]]` tables with `id`, `question` and `options`."""
    return [
        Question(
            entry["id"],
            " ".join(entry["question"].split()),
            tuple(Option(o["text"], " ".join(o["why"].split()), o.get("correct", False)) for o in entry["options"]),
        )
        for entry in tomllib.loads(text)["quiz"]
    ]


class QuizView:
    """One question as a widget: choose a number, press Check, read why.

    Attributes:
        choice: the RadioButtons.
        button: "Check answer".
        feedback: an HTML with `role="alert"`, which a screen reader speaks.
        box: all of it.
    """

    def __init__(self, question: Question):
        self.question = question.shuffled(python_stream(0, "quiz", question.id))
        self.text = ipywidgets.HTML(self._question_text())
        self.choice = ipywidgets.RadioButtons(
            options=list(self.question.numbered), value=None, description="Your answer:"
        )
        self.button = ipywidgets.Button(description="Check answer")
        self.feedback = ipywidgets.HTML(self._greeting())
        self.button.on_click(self._check)
        self.box = ipywidgets.VBox([self.text, self.choice, self.button, self.feedback])

    def show(self) -> None:
        """Display the widget, with a static page beside it for where widgets do not live."""
        display(
            widget_bundle(self.box, self.question.to_text(), {"text/html": self.question.to_static_html()}),
            raw=True,
        )

    def _question_text(self) -> str:
        return block(self.question.to_html())

    def _greeting(self) -> str:
        done = progress.has_passed("quizzes", self.question.id)
        return "You have answered this one right before. Try it again if you like." if done else ""

    def _check(self, _button: ipywidgets.Button) -> None:
        number = self.choice.value
        if number is None:
            self.feedback.value = block("Choose an answer first.", alert=True)
            return
        option = self.question.numbered[number]
        notice = self._record(option.correct)
        if option.correct:
            message = f"<b>✓ Right: {number}.</b> {as_html(option.why)}"
            others = self.question.answers_to_html(number)
            fold = f"<details><summary>And the others?</summary>{others}</details>"
        else:
            message, fold = f"<b>✗ Not {number}.</b> {as_html(option.why)} Try another one.", ""
        self.feedback.value = block(message, alert=True) + fold + (f"<p>{html.escape(notice)}</p>" if notice else "")

    def _record(self, correct: bool) -> str:
        return progress.record_quiz(self.question.id, correct)


class DrillView(QuizView):
    """A question that can be asked again with other numbers. Drills are practice: they are not counted."""

    def __init__(self, drill: Drill):
        self._drill = drill
        self._stream: Random = python_stream(0, "drill", drill.id)
        super().__init__(drill.ask(self._stream))
        self.again = ipywidgets.Button(description="New numbers")
        self.again.on_click(self._renew)
        self.box.children = [*self.box.children[:-1], self.again, self.feedback]

    def _renew(self, _button: ipywidgets.Button) -> None:
        self.question = self._drill.ask(self._stream).shuffled(self._stream)
        self.text.value = self._question_text()
        self.choice.options = list(self.question.numbered)
        self.choice.value = None
        self.feedback.value = block("New numbers.", alert=True)

    def _record(self, correct: bool) -> str:
        return ""
