"""Interview practice in a cell: write your own answer, then compare it, score it, and hear the follow-up.

    interview()                       # choose difficulty and topic in the cell
    interview(topic="ppo", stars=2)

Core widgets alone, in what ipywidgets 7.7 and 8 share. Where no widget can live (GitHub, nbviewer, PDF) the same
output shows the questions, each with its answer behind a fold.
"""

import html

import ipywidgets
from IPython.display import display

from rlhf_course.learn import progress
from rlhf_course.learn.interview_bank import InterviewQuestion, interview_bank, select
from rlhf_course.learn.mime import block, widget_bundle
from rlhf_course.learn.question import as_html

ANY = ""  # a Dropdown shows the value None as an empty line


def interview(topic: str | None = None, stars: int | None = None) -> None:
    """Practise interview questions.

    Args:
        topic: a lesson's, such as "ppo"; None for all. It can be changed in the cell, as can the next.
        stars: the difficulty, 1 to 3; None for all.

    An unknown topic prints the nearest ones, another difficulty what there is.
    """
    try:
        view = InterviewView(topic, stars)
    except ValueError as error:
        print(error)
    else:
        view.show()


class InterviewView:
    """The practice as a widget: filters, question, own answer, and behind a button model answer, rubric, follow-up.

    Attributes:
        stars, topic: the filters (Dropdown).
        question: the question asked now, or None if none fits.
        own: the Textarea for the learner's answer.
        reveal, save, next: the buttons.
        points: a Checkbox for each line of the rubric.
        feedback, kept: HTML with `role="alert"`, which a screen reader speaks; the second stands below the rubric.
        box: all of it.
    """

    def __init__(self, topic: str | None = None, stars: int | None = None):
        select(topic, stars)
        topics = dict.fromkeys(question.topic for question in interview_bank().values())
        self.stars = ipywidgets.Dropdown(
            options=[("any", ANY), ("★ (1 of 3)", 1), ("★★ (2 of 3)", 2), ("★★★ (3 of 3)", 3)],
            value=stars or ANY,
            description="Difficulty:",
        )
        self.topic = ipywidgets.Dropdown(
            options=[("any", ANY), *((name, name) for name in topics)], value=topic or ANY, description="Topic:"
        )
        self.text = ipywidgets.HTML()
        self.own = ipywidgets.Textarea(description="You say:", rows=8, layout=ipywidgets.Layout(width="auto"))
        self.reveal = ipywidgets.Button(description="Show the answer")
        self.next = ipywidgets.Button(description="Next question")
        self.save = ipywidgets.Button(description="Keep my score")
        self.feedback = ipywidgets.HTML()
        self.kept = ipywidgets.HTML()
        self.revealed = ipywidgets.VBox()
        self.points: list[ipywidgets.Checkbox] = []
        self.question: InterviewQuestion | None = None
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.stars, self.topic], layout=ipywidgets.Layout(flex_flow="row wrap")),
                self.text,
                self.own,
                ipywidgets.HBox([self.reveal, self.next]),
                self.feedback,
                self.revealed,
            ]
        )
        self.reveal.on_click(self._reveal)
        self.next.on_click(self._next)
        self.save.on_click(self._save)
        for filter_ in (self.stars, self.topic):
            filter_.observe(self._filtered, names="value")
        self._filtered(None)

    def show(self) -> None:
        """Display the widget, with a static page beside it for where widgets do not live."""
        text = "\n".join(f"{question.heading}: {question.text}" for question in self.questions)
        static = "".join(question.to_static_html() for question in self.questions)
        display(widget_bundle(self.box, text, {"text/html": static}), raw=True)

    def _filtered(self, _change) -> None:
        """Begin with the first question of the selection that was not scored yet."""
        kept = self._keep_what_is_ticked()
        self.questions = select(self.topic.value or None, self.stars.value or None)
        scored = progress.load()["interviews"]
        self._ask(next((q for q in self.questions if q.id not in scored), next(iter(self.questions), None)), kept)

    def _next(self, _button: ipywidgets.Button) -> None:
        kept = self._keep_what_is_ticked()
        place = self.questions.index(self.question) + 1
        self._ask(self.questions[place % len(self.questions)], kept)

    def _keep_what_is_ticked(self) -> str:
        """Whoever ticks and goes on without the button means the score to count: what is said of it, or nothing."""
        if any(box.value for box in self.points) and not self.kept.value:
            self._save(self.save)
            return self.kept.value.replace("Kept:", "Kept for the last question:", 1)
        return ""

    def _ask(self, question: InterviewQuestion | None, feedback: str = "") -> None:
        self.question = question
        self.own.value = self.kept.value = ""
        self.feedback.value = feedback
        self.revealed.children, self.points = [], []
        for widget in (self.own, self.reveal, self.next):
            widget.disabled = question is None
        if question is None:
            there = sorted({q.stars for q in select(self.topic.value)})
            stars = " or ".join("★" * stars for stars in there)
            words = f"No question on {self.topic.value} has this difficulty. Choose {stars} for it, or another topic."
            self.text.value = block(words, alert=True)
            return
        place = f"<p>Question {self.questions.index(question) + 1} of {len(self.questions)}</p>"
        before = progress.load()["interviews"].get(question.id)
        best = f"<p>Your best score: {before['points']} of {len(question.points)} points.</p>" if before else ""
        self.text.value = block(place + question.to_html() + best)

    def _reveal(self, _button: ipywidgets.Button) -> None:
        if self.revealed.children:  # what was ticked stays
            return
        if not self.own.value.strip():
            self.feedback.value = block("Write your own answer first. A few key words will do.", alert=True)
            return
        question = self.question
        self.points = [
            ipywidgets.Checkbox(description=f"Point {number}", indent=False, layout=ipywidgets.Layout(width="90px"))
            for number in range(1, len(question.points) + 1)
        ]
        for box in self.points:
            box.observe(self._ticked, names="value")
        words = ipywidgets.Layout(flex="1 1 0%", min_width="0")
        lines = [
            ipywidgets.HBox(
                [box, ipywidgets.HTML(block(as_html(point)), layout=words)],
                layout=ipywidgets.Layout(align_items="center"),
            )
            for box, point in zip(self.points, question.points)
        ]
        self.revealed.children = [
            ipywidgets.HTML(block(question.answer_to_html())),
            ipywidgets.HTML(block("<p><b>Score yourself.</b> Tick what your own answer said.</p>")),
            *lines,
            ipywidgets.HBox([self.save, self.kept], layout=ipywidgets.Layout(align_items="center")),
            ipywidgets.HTML(block(question.follow_ups_to_html())),
        ]
        self.feedback.value = block("The model answer is below. Read it against yours.", alert=True)

    def _ticked(self, _change) -> None:
        self.kept.value = ""  # what it said is true no more

    def _save(self, _button: ipywidgets.Button) -> None:
        points, possible = sum(box.value for box in self.points), len(self.points)
        notice = progress.record_interview(self.question.id, points)
        best = progress.load()["interviews"][self.question.id]["points"]
        words = f"Kept: {points} of {possible} points" + (f", your best being {best}." if best > points else ".")
        self.kept.value = block(words + (f"<p>{html.escape(notice)}</p>" if notice else ""), alert=True)
