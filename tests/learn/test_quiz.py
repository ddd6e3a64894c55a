"""Quizzes and drills: a lint of the bank, and the widgets driven through their callbacks, with no browser."""

import itertools
import re
from random import Random

import ipywidgets
import pytest

from rlhf_course.learn import progress, quiz
from rlhf_course.learn.drills import drills
from rlhf_course.learn.interview_bank import interview_bank
from rlhf_course.learn.labs.break_it import stories
from rlhf_course.learn.mime import WIDGET_VIEW
from rlhf_course.learn.question import as_html
from rlhf_course.learn.quiz_widget import DrillView, QuizView, bank
from rlhf_course.learn.topics import TOPICS

DRAWN = [(drill.id, drill.ask(Random(seed))) for drill in drills().values() for seed in range(60)]
EVERY = [*bank().items(), *DRAWN]


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as a list of bundles."""
    bundles = []
    monkeypatch.setattr("rlhf_course.learn.quiz_widget.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def view_of(quiz_id):
    return QuizView(bank()[quiz_id])


def answer(view, correct):
    number = next(k for k, option in view.question.numbered.items() if option.correct == correct)
    view.choice.value = number
    view.button.click()
    return view.question.numbered[number]


# --- the bank


def test_every_question_is_well_formed():
    for id, question in EVERY:
        assert question.id == id
        assert id.split(".")[0] in TOPICS
        assert 3 <= len(question.options) <= 5, id
        assert sum(option.correct for option in question.options) == 1, id
        assert len({option.text for option in question.options}) == len(question.options), question
        assert len({option.why for option in question.options}) == len(question.options), id
        assert len(question.text) >= 40, id
        for option in question.options:
            assert len(option.why) >= 40, (id, option)
            assert option.why.rstrip()[-1] in ".?!", (id, option)
            assert not {"$", "\\"} & set(option.text + option.why + question.text), (id, option)
            assert "of the above" not in option.text.lower(), id


def test_the_right_option_does_not_give_itself_away():
    longest = [max(q.options, key=lambda o: len(o.text)).correct for q in bank().values()]
    assert sum(longest) <= len(longest) / 2
    first = [view_of(id).question.options[0].correct for id in bank()]
    assert 0 < sum(first) < len(first) / 2


def test_every_topic_so_far_has_three_to_eight_questions_and_ids_do_not_clash():
    for topic, ids in itertools.groupby(bank(), key=lambda id: id.split(".")[0]):
        assert 3 <= len(list(ids)) <= 8, topic
    assert not set(bank()) & set(drills())


# --- the widget


def test_a_wrong_answer_is_explained_and_can_be_mended():
    view = view_of("reward_model.shift")
    wrong = answer(view, correct=False)
    assert "✗ Not" in view.feedback.value
    assert "Try another" in view.feedback.value
    assert 'role="alert"' in view.feedback.value
    assert wrong.why in view.feedback.value.replace("&#x27;", "'")
    assert not progress.has_passed("quizzes", view.question.id)

    right = answer(view, correct=True)
    assert "✓ Right" in view.feedback.value
    assert right.why in view.feedback.value.replace("&#x27;", "'")
    assert "And the others?" in view.feedback.value
    assert progress.load()["quizzes"][view.question.id] == {"passed": True, "attempts": 2}


def test_code_in_a_question_is_set_as_code():
    view = view_of("start_here.whose_code")
    assert "<code>loss_fn=usable(my_loss)</code>" in view.text.value


def test_marks_become_tags_and_everything_else_is_escaped():
    assert as_html("`x < y`, a < b") == "<code>x &lt; y</code>, a &lt; b"
    assert as_html("the *wrong* way") == "the <em>wrong</em> way"
    assert as_html("(*two words*)") == "(<em>two words</em>)"
    assert as_html("**watch `x*y`.** <i>") == "<b>watch <code>x*y</code>.</b> &lt;i&gt;"
    for formula in ("π* ∝ π_ref, then π*", "log(π*/π_ref) − π*", "beta * (a − b) * c", "2**3 and 3**2", "`f(*a, *b)`"):
        assert "<em>" not in as_html(formula) and "<b>" not in as_html(formula), formula


def test_no_mark_is_left_over_in_the_bank():
    """A star at a word's beginning, or a backtick, would show as it is."""
    pages = {id: question.to_static_html() for id, question in EVERY}
    pages |= {id: question.to_static_html() for id, question in interview_bank().items()}
    pages |= {name: as_html(f"{fault.changed} {fault.diagnosis}") for name, fault in stories().items()}
    for id, page in pages.items():
        left = re.search(r"(?<![\w*])\*(?! )|`", re.sub(r"<code>.*?</code>", "", page))
        assert not left, f"{id}: …{page[max(left.start() - 30, 0) : left.end() + 30]}…"


def test_checking_without_a_choice_asks_for_one(capsys):
    view = view_of("reward_model.shift")
    view.button.click()
    assert "Choose an answer first" in view.feedback.value
    assert progress.load()["quizzes"] == {}
    assert capsys.readouterr().out == ""


def test_running_the_cell_again_loses_nothing_and_says_so():
    answer(view_of("sft.never_stops"), correct=True)
    again = view_of("sft.never_stops")
    assert "right before" in again.feedback.value
    answer(again, correct=False)
    assert progress.has_passed("quizzes", "sft.never_stops")


def test_the_order_of_the_options_is_the_same_every_time():
    assert view_of("reward_model.shift").question == view_of("reward_model.shift").question


def test_only_core_widgets_are_used():
    allowed = (ipywidgets.HTML, ipywidgets.RadioButtons, ipywidgets.Button)
    for view in (view_of("reward_model.shift"), DrillView(drills()["reward_model.margin_drill"])):
        assert all(type(child) in allowed for child in view.box.children)


@pytest.mark.parametrize("quiz_id", ["reward_model.shift", "reward_model.margin_drill"])
def test_the_display_also_speaks_to_pages_without_widgets(shown, quiz_id):
    quiz(quiz_id)
    (bundle,) = shown
    assert set(bundle) == {WIDGET_VIEW, "text/html", "text/plain"}
    static, folded = bundle["text/html"].split("<details>")
    assert "is right" in folded
    assert "is right" not in static
    assert bundle["text/plain"].count("\n  ") == static.count("<li>") == 4


def test_an_unknown_id_offers_the_nearest(capsys, shown):
    quiz("reward_model.shft")
    assert "Did you mean 'reward_model.shift'" in capsys.readouterr().out
    assert shown == []


def test_a_drill_asks_again_with_other_numbers_and_is_not_counted():
    view = DrillView(drills()["reward_model.margin_drill"])
    first = view.question.text
    assert "✓" not in view.feedback.value
    answer(view, correct=True)
    assert "✓ Right" in view.feedback.value
    texts = {first}
    for _ in range(4):
        view.again.click()
        assert view.choice.value is None
        assert view.question.text in view.text.value.replace("&#x27;", "'")
        texts.add(view.question.text)
        answer(view, correct=True)
        assert "✓ Right" in view.feedback.value
    assert len(texts) > 2
    assert progress.load()["quizzes"] == {}
