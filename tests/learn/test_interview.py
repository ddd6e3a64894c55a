"""Interview practice: a lint of the bank and the reading list, and the widget driven through its callbacks."""

import math
import re
from collections import Counter

import ipywidgets
import pytest
import torch

from rlhf_course.advantages import gae
from rlhf_course.experiments import load_result
from rlhf_course.learn import interview, progress, reading_list
from rlhf_course.learn.interview_bank import interview_bank, select
from rlhf_course.learn.interview_widget import ANY, InterviewView
from rlhf_course.learn.mime import WIDGET_VIEW
from rlhf_course.learn.reading import readings
from rlhf_course.learn.topics import TOPICS

#: The questions that every interview on the subject holds.
MUST = {
    "pipeline.three_stages": 2,
    "dpo.against_ppo": 3,
    "kl.reward_hacking": 2,
    "rlaif.constitutional_ai": 2,
    "grpo.against_ppo": 3,
    "reward_model.preference_data": 2,
    "kl.reference_model": 2,
    "choosing.which_when": 3,
    "overoptimization.sycophancy": 2,
    "overoptimization.where_it_turns": 3,
}
every = pytest.mark.parametrize("question", interview_bank().values(), ids=lambda question: question.id)


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as a list of bundles."""
    bundles = []
    for module in ("interview_widget", "reading"):
        monkeypatch.setattr(f"rlhf_course.learn.{module}.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def sentences(text):
    """How many sentences a text has; "et al." and numbers end none."""
    return len(re.findall(r"[.?!][\"')]?(?=\s|$)", text.replace("et al.", "et al")))


# --- the bank


def test_the_bank_covers_the_course_and_every_difficulty():
    bank = interview_bank()
    assert len(bank) >= 24
    assert {id: bank[id].stars for id in MUST} == MUST
    assert {question.topic for question in bank.values()} == set(TOPICS) - {"start_here", "capstone", "recap"}
    assert min(Counter(question.stars for question in bank.values()).values()) >= 4
    assert len({question.text for question in bank.values()}) == len(bank)


@every
def test_a_question_is_well_formed(question):
    assert question.topic in TOPICS and question.stars in (1, 2, 3)
    assert question.text[-1] in ".?"
    assert 8 <= sentences(question.answer) <= 15, sentences(question.answer)
    assert 3 <= len(question.points) <= 6 and len(set(question.points)) == len(question.points)
    assert 1 <= len(question.follow_ups) <= 2
    for point in question.points:
        assert 20 <= len(point) <= 140 and point[-1] == ".", point
    for follow_up in question.follow_ups:
        assert follow_up.question[-1] in ".?" and sentences(follow_up.answer) >= 2, follow_up.question
    texts = [question.text, question.answer, *question.points, *(f.answer for f in question.follow_ups)]
    assert not {"$", "\\"} & set("".join(texts)), "formulas are written in Unicode"


@every
def test_sources_are_in_the_reading_list_or_in_the_course(question):
    keys = {reading.key for reading in readings()}
    lessons = {f"lesson {number:02d}" for number in range(len(TOPICS))}
    assert question.sources
    for source in question.sources:
        assert source.split(",")[0] in keys | lessons, source
    named = set(re.findall(r"lesson \d\d", question.answer))
    assert named <= set(question.sources), f"the answer quotes {named}"


def test_what_is_quoted_of_our_own_runs_is_what_the_tables_say():
    """The small world's numbers in the answers, each made again from its table."""

    def to(low, high, digits=2):
        return f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")

    bank = interview_bank()
    stages, grpo = load_result("pipeline.stages"), load_result("grpo.against_ppo")
    price, audit = load_result("pipeline.kl_price"), load_result("rlaif.audit")
    blind, pairs = load_result("rlaif.blind_spot"), load_result("dpo.broken_runs")
    ends = {beta: price.where(beta=beta, step=max(price.values("step"))) for beta in (0.0, 0.05, 0.1)}

    def span(rows, column):
        return min(row[column] for row in rows), max(row[column] for row in rows)

    def percent(low, high):
        return to(100 * low, 100 * high, 0)

    best = [max(price.values("gold", beta=0.0, seed=seed)) for seed in (0, 1, 2)]
    first, last = (pairs.where(run="healthy", step=step) for step in (0, max(pairs.values("step", run="healthy"))))
    lost = {
        side: sorted(a[f"{side}_logp"] - b[f"{side}_logp"] for a, b in zip(first, last))
        for side in ("chosen", "rejected")
    }
    wanted = {
        "dpo.against_ppo": [to(*stages.span("ppo_gold")), to(*stages.span("dpo_gold"))],
        "grpo.against_ppo": [to(*grpo.span("gold", method="grpo")), to(*grpo.span("gold", method="ppo"))],
        "reward_model.label_noise": [
            percent(*stages.span("label_gold_accuracy")),
            percent(*stages.span("rm_gold_accuracy")),
        ],
        "kl.reward_hacking": [
            to(*span(ends[0.0], "kl"), 0),
            to(*span(ends[0.0], "gold"), 1),
            to(*span(ends[0.1], "kl"), 1),
            to(*span(ends[0.1], "gold"), 1),
        ],
        "overoptimization.where_it_turns": [to(*span(ends[0.05], "gold")), to(min(best), max(best))],
        "rlaif.model_as_judge": [
            percent(*audit.span("ai", pairs="as they come")),
            percent(*blind.span("agreement", labeler="blind AI")),
        ],
        "dpo.displacement": [
            to(lost["chosen"][0], lost["chosen"][-1], 1),
            to(lost["rejected"][0], lost["rejected"][-1], 1),
        ],
    }
    for id, quoted in wanted.items():
        answer = bank[id].answer.replace("from −", "−")
        for numbers in quoted:
            assert numbers in answer, f"{id} does not say {numbers}"
    cost = load_result("grpo.cost")
    for ppo, grpo_ in zip(cost.values("seconds", method="ppo"), cost.values("seconds", method="grpo")):
        assert 0.25 < 1 - grpo_ / ppo < 0.42, "GRPO's step no longer takes about a third less"


def test_what_is_quoted_of_formulas_is_what_the_package_computes():
    answers = {id: question.answer for id, question in interview_bank().items()}
    n4, n16, n256 = (f"{math.log(n) - (n - 1) / n:.2f}" for n in (4, 16, 256))
    assert f"{n4} nats for n = 4, {n16} for 16, {n256} for 256" in answers["kl.best_of_n"]
    rewards, values, mask = torch.tensor([[-0.1, -0.2, 1.0]]), torch.tensor([[0.5, 0.4, 0.3]]), torch.ones(1, 3)
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    a, b, c = advantages[0].tolist()
    assert f"give advantages {a:.3f}, {b:.3f}, {c:.1f}".replace("0.", ".") in answers["ppo.gae"]
    right = (1 + math.sqrt(2 * 0.726 - 1)) / 2  # two labels agree q² + (1 − q)² of the time
    assert f"q = {right:.2f}".replace("0.", ".") in answers["reward_model.label_noise"]
    assert "83 %" in answers["reward_model.bradley_terry"] and round(100 / (1 + math.exp(-1.6))) == 83


def test_the_questions_can_be_selected():
    assert {q.topic for q in select("ppo")} == {"ppo"}
    assert {q.stars for q in select(stars=3)} == {3}
    assert [q.id for q in select("ppo", 2)] == ["ppo.clip"]
    assert len(select()) == len(interview_bank())
    with pytest.raises(ValueError, match="Did you mean 'grpo'"):
        select("grop")
    with pytest.raises(ValueError, match="stars must be 1, 2, 3 or None, got 4"):
        select(stars=4)


# --- the reading list


def test_the_reading_list_is_whole():
    keys = [reading.key for reading in readings()]
    assert len(set(keys)) == len(keys)
    for paper in ("Ouyang", "Bai", "Ziegler", "Weng", "Coste", "Karpathy", "Rafailov", "Azar", "Ethayarajh", "Shao"):
        assert any(key.startswith(paper) for key in keys), paper
    for reading in readings():
        assert re.match(r"https?://", reading.address)
        assert 50 <= len(reading.why) <= 190 and reading.why[-1] == ".", reading.key
        year = re.search(r"\d{4}", reading.key)
        if year and (arxiv := re.search(r"arxiv\.org/abs/(\d\d)\d\d\.\d{4,5}$", reading.address)):
            assert abs(int(year[0]) - 2000 - int(arxiv[1])) <= 1, reading.key


def test_the_reading_list_is_shown_with_a_text_beside_it(shown):
    reading_list()
    (bundle,) = shown
    assert bundle["text/html"].count("<li>") == bundle["text/plain"].count("http") == len(readings())
    assert "Ouyang et al., 2022" in bundle["text/plain"] + bundle["text/html"]


# --- the widget


def test_one_writes_first_then_compares_scores_and_hears_the_follow_up(capsys):
    view = InterviewView(topic="ppo", stars=3)
    question = view.question
    assert question.text in plain(view.text.value)
    view.reveal.click()
    assert "Write your own answer first" in view.feedback.value and 'role="alert"' in view.feedback.value
    assert view.revealed.children == ()

    view.own.value = "delta, lambda, critic"
    view.reveal.click()
    text = plain(" ".join(everything(view.revealed, ipywidgets.HTML)))
    for part in (question.answer, *question.points, *question.sources, question.follow_ups[0].answer):
        assert part.replace("`", "") in text.replace("<code>", "").replace("</code>", "")
    assert [box.description for box in view.points] == [f"Point {n}" for n in range(1, len(question.points) + 1)]

    view.points[0].value = view.points[2].value = True
    view.reveal.click()  # a second time it changes nothing
    assert [box.value for box in view.points[:3]] == [True, False, True]
    view.save.click()
    assert f"Kept: 2 of {len(question.points)} points." in view.kept.value and 'role="alert"' in view.kept.value
    assert progress.load()["interviews"] == {question.id: {"points": 2, "attempts": 1}}
    view.points[0].value = False
    view.save.click()
    assert "your best being 2" in view.kept.value
    assert capsys.readouterr().out == ""


def test_the_next_question_begins_afresh_and_the_last_leads_to_the_first():
    view = InterviewView(topic="dpo")
    asked = []
    for _ in view.questions:
        asked.append(view.question)
        view.own.value = "something"
        view.reveal.click()
        view.next.click()
        assert view.own.value == view.feedback.value == view.kept.value == ""
        assert view.revealed.children == ()
    assert asked == view.questions and view.question == asked[0]


@pytest.mark.parametrize("on", ["next", "filter"])
def test_what_is_ticked_is_kept_when_one_goes_on(on):
    view = InterviewView(topic="dpo")
    first, points = view.question, len(view.question.points)
    view.own.value = "something"
    view.reveal.click()
    view.points[0].value = view.points[1].value = True
    if on == "next":
        view.next.click()
    else:
        view.topic.value = "ppo"
    assert f"Kept for the last question: 2 of {points} points." in view.feedback.value
    assert progress.load()["interviews"] == {first.id: {"points": 2, "attempts": 1}}
    assert view.question != first and view.kept.value == ""


def test_a_kept_score_is_not_kept_twice_and_a_new_tick_is_kept_anew():
    view = InterviewView(topic="dpo")
    first = view.question
    view.own.value = "something"
    view.reveal.click()
    view.points[0].value = True
    view.save.click()
    view.points[1].value = True
    assert view.kept.value == ""
    view.save.click()
    view.next.click()
    assert view.feedback.value == ""
    assert progress.load()["interviews"] == {first.id: {"points": 2, "attempts": 2}}


def test_it_goes_on_with_what_was_not_scored_and_shows_what_was():
    first, second, *_ = select("reward_model")
    progress.record_interview(first.id, 3)
    view = InterviewView(topic="reward_model")
    assert view.question == second
    while view.question != first:
        view.next.click()
    assert f"Your best score: 3 of {len(first.points)} points" in view.text.value


def test_filters_in_the_cell():
    view = InterviewView()
    assert view.questions == select() and view.stars.label == view.topic.label == "any"
    view.topic.value = "kl"
    assert view.questions == select("kl") and view.question == view.questions[0]
    view.stars.value = 1
    assert view.question is None
    assert "No question on kl has this difficulty. Choose ★★ or ★★★ for it, or another topic." in view.text.value
    assert view.reveal.disabled and view.next.disabled
    view.topic.value = ANY
    assert view.questions == select(stars=1) and not view.reveal.disabled


def test_only_core_widgets_are_used():
    view = InterviewView("ppo")
    view.own.value = "x"
    view.reveal.click()
    allowed = ["HTML", "Dropdown", "Textarea", "Button", "Checkbox", "HBox", "VBox"]
    assert {type(widget).__name__ for widget in walk(view.box)} == set(allowed)


def test_the_display_also_speaks_to_pages_without_widgets(shown):
    interview(topic="grpo")
    (bundle,) = shown
    assert set(bundle) == {WIDGET_VIEW, "text/html", "text/plain"}
    open_, *folded = bundle["text/html"].split("<summary>Answer, rubric and follow-up</summary>")
    assert len(folded) == len(select("grpo"))
    assert "A model answer" not in open_ and all("A model answer" in part for part in folded)
    assert bundle["text/plain"].splitlines() == [f"{q.heading}: {q.text}" for q in select("grpo")]


def test_what_does_not_exist_is_answered_in_a_sentence(capsys, shown):
    interview(topic="gropo")
    interview(stars=7)
    printed = capsys.readouterr().out
    assert "Did you mean 'grpo'" in printed and "stars must be 1, 2, 3 or None" in printed
    assert shown == []


def plain(text):
    return text.replace("&#x27;", "'").replace("&quot;", '"').replace("&amp;", "&").replace("&gt;", ">")


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def everything(widget, kind):
    return [part.value for part in walk(widget) if isinstance(part, kind)]
