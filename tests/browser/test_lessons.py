"""Lessons in a real browser: Run All, a quiz by keyboard, an exercise done wrong and right, a lab that moves.

Pictures of every step go to the folder that RLHF_COURSE_SCREENSHOTS names. Look at them when the look may have changed.
"""

import html
import inspect
import re
from dataclasses import dataclass

import pytest
from lesson_page import LOAD

from rlhf_course.learn.catalogue import exercises
from rlhf_course.learn.question import as_html
from rlhf_course.learn.quiz_widget import bank

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@dataclass(frozen=True)
class Lesson:
    """What to try in a lesson.

    Attributes:
        name: the notebook's.
        quiz: a quiz's id.
        exercise: an exercise's id, if the lesson has one.
        wrong: a body that makes a listed mistake.
        mistake: that mistake's name.
        right: a body that passes.
        lab: a lab's name, if the lesson has one with a slider.
    """

    name: str
    quiz: str
    exercise: str | None = None
    wrong: str = ""
    mistake: str = ""
    right: str = ""
    lab: str | None = None


LESSONS = [
    Lesson(
        "00_start_here",
        quiz="start_here.mirror",
        exercise="start_here.sigmoid",
        wrong="return 1 / (1 + torch.exp(x))",
        mistake="sign of the exponent",
        right="return torch.sigmoid(x)",
    ),
    Lesson(
        "01_pipeline",
        quiz="pipeline.beta_zero",
        exercise="pipeline.models_in_memory",
        wrong="""models = dict.fromkeys(("policy", "reference", "reward_model", "value_model"))
    if method == "reward_model":
        return models | {"reward_model": "train"}
    used = {"dpo": ["reference"], "grpo": ["reference", "reward_model"]}
    used["ppo"] = used["grpo"] + ["value_model"]
    return models | {"policy": "train"} | dict.fromkeys(used.get(method, []), "frozen")""",
        mistake="a frozen critic",
        right="""models = dict.fromkeys(("policy", "reference", "reward_model", "value_model"))
    learn = {"reward_model": ["reward_model"], "ppo": ["policy", "value_model"]}.get(method, ["policy"])
    frozen = {"dpo": ["reference"], "grpo": ["reference", "reward_model"], "ppo": ["reference", "reward_model"]}
    return models | dict.fromkeys(learn, "train") | dict.fromkeys(frozen.get(method, []), "frozen")""",
        lab="pipeline_drift",
    ),
    Lesson(
        "02_sft",
        quiz="sft.no_prompt_mask",
        exercise="sft.sft_loss",
        wrong="return -logps.mean()",
        mistake="mask ignored",
        right="return -torch.masked_select(logps, mask.bool()).mean()",
    ),
    Lesson(
        "03_reward_model",
        quiz="reward_model.shift",
        exercise="reward_model.reward_loss",
        wrong="return -torch.nn.functional.logsigmoid(rejected_rewards - chosen_rewards).mean()",
        mistake="reversed",
        right="return torch.nn.functional.softplus(rejected_rewards - chosen_rewards).mean()",
        lab="bradley_terry",
    ),
    Lesson(
        "04_kl",
        quiz="kl.no_penalty",
        exercise="kl.kl_estimate",
        wrong="""d = logps - ref_logps
    return {"k1": d, "k2": d**2 / 2, "k3": d.exp() - 1 - d}[estimator]""",
        mistake="k3 with its ratio inverted",
        right="""d = logps - ref_logps
    return {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[estimator]""",
        lab="tilted_policy",
    ),
    Lesson(
        "05_ppo",
        quiz="ppo.bad_and_likelier",
        exercise="ppo.ppo_clip_loss",
        wrong="""ratio = (logps - old_logps).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -(torch.max(ratio * advantages, clipped * advantages) * mask).sum() / mask.sum()""",
        mistake="maximum for minimum",
        right="""ratio = (logps - old_logps).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return (torch.max(-ratio * advantages, -clipped * advantages) * mask).sum() / mask.sum()""",
        lab="ppo_clip",
    ),
    Lesson(
        "06_dpo",
        quiz="dpo.log_ratio",
        exercise="dpo.dpo_loss",
        wrong="return -torch.nn.functional.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps)).mean()",
        mistake="no reference",
        right="""chosen, rejected = policy_chosen_logps - ref_chosen_logps, policy_rejected_logps - ref_rejected_logps
    return torch.nn.functional.softplus(beta * (rejected - chosen)).mean()""",
        lab="dpo_gradient",
    ),
    Lesson(
        "07_dpo_variants",
        quiz="dpo_variants.finite_margin",
        exercise="dpo_variants.ipo_loss",
        wrong="""margins = policy_chosen_logps - ref_chosen_logps - policy_rejected_logps + ref_rejected_logps
    return (margins - 1 / beta).square().mean()""",
        mistake="target 1/β",
        right="""chosen, rejected = policy_chosen_logps - ref_chosen_logps, policy_rejected_logps - ref_rejected_logps
    return ((chosen - rejected) - 0.5 / beta).pow(2).mean()""",
        lab="value_function",
    ),
    Lesson(
        "08_grpo",
        quiz="grpo.two_answers",
        exercise="grpo.group_advantages",
        wrong="""groups = rewards.reshape(-1, num_generations)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()""",
        mistake="mean only",
        right="""groups = rewards.reshape(-1, num_generations)
    spread, mean = torch.std_mean(groups, dim=1, keepdim=True)
    return ((groups - mean) / (spread + 1e-4)).reshape(-1)""",
        lab="group_advantage",
    ),
    Lesson(
        "09_rlaif",
        quiz="rlaif.slot_or_answer",
        exercise="rlaif.debiased_preference",
        wrong="return (p_first + p_first_swapped) / 2",
        mistake="mean of the slots",
        right="return 0.5 + 0.5 * (p_first - p_first_swapped)",
    ),
    Lesson(
        "10_overoptimization",
        quiz="overoptimization.at_its_best",
        exercise="overoptimization.peak_distance",
        wrong="""if beta <= 0:
        return math.inf
    return alpha / beta if method == "bon" else math.exp(alpha / beta)""",
        mistake="where gold is back at 0",
        right="""if beta <= 0:
        return math.inf
    return 0.5 * alpha / beta if method == "bon" else math.exp(alpha / beta - 1)""",
    ),
    Lesson(
        "11_choosing",
        quiz="choosing.off_the_line",
        exercise="choosing.win_rate",
        wrong="return (scores_a > scores_b).float().mean().item()",
        mistake="a tie is a loss",
        right="""ahead = scores_a.double() - scores_b.double()
    return (ahead.sign().mean().item() + 1) / 2""",
        lab="cost",
    ),
    Lesson(
        "12_capstone",
        quiz="capstone.start_accuracy",
        exercise="capstone.format_reward",
        wrong="""return [float("<answer>" in text and "</answer>" in text) for text in completions]""",
        mistake="tags are enough",
        right="""form = re.compile(r"((?!</?answer>).)*<answer>\\s*-?[0-9]+\\s*</answer>\\s*", re.DOTALL)
    return [1.0 if form.fullmatch(text) else 0.0 for text in completions]""",
    ),
    Lesson("13_recap", quiz="recap.where_to_spend"),
]


@pytest.fixture(scope="module", params=LESSONS, ids=lambda lesson: lesson.name)
def lesson(request):
    return request.param


@pytest.fixture(scope="module")
def page(lesson, open_notebook):
    """The learner's notebook, opened and run to its end."""
    with open_notebook(f"{lesson.name}.ipynb") as page:
        page.picture("1-opened")
        page.run_all()
        page.picture("2-run")
        yield page


def plain(text):
    """Text of a page without its line breaks."""
    return " ".join(text.split())


def as_read(text):
    """Text of the bank as a reader of the page sees it: its marks of code, bold and emphasis are looks, not letters."""
    return plain(html.unescape(re.sub("<[^>]*>", "", as_html(text))))


def test_it_opens_undisturbed_and_run_all_reaches_the_end_without_an_error(page):
    assert page.page.locator(".Toastify__toast").count() == 0
    assert page.page.locator(".jp-Dialog").count() == 0
    assert page.stored_errors() == []


def test_a_quiz_is_answered_wrong_then_right_by_keyboard(page, lesson):
    question = bank()[lesson.quiz]
    place = page.index(f'quiz("{lesson.quiz}")')
    shown = [plain(text) for text in page.cell(place).locator("ol li").all_text_contents()]
    assert sorted(shown) == sorted(as_read(option.text) for option in question.options)
    alert = page.cell(place).locator("[role=alert]")
    for correct, key in ((False, "Space"), (True, "Enter")):
        option = next(option for option in question.options if option.correct == correct)
        number = shown.index(as_read(option.text))
        page.tab_to(place, "input[type=radio]", number)
        page.page.keyboard.press("Space")
        page.tab_to(place, "button")
        page.page.keyboard.press(key)
        verdict = f"✓ Right: {number + 1}." if correct else f"✗ Not {number + 1}."
        alert.filter(has_text=verdict).wait_for()
        assert as_read(option.why) in plain(alert.text_content())
        page.cell(place)
        page.picture(f"3-quiz-{'right' if correct else 'wrong'}")


def test_an_exercise_goes_from_unwritten_through_raising_and_wrong_to_right(page, lesson):
    if lesson.exercise is None:
        pytest.skip(f"lesson {lesson.name} has no exercise")
    exercise = exercises()[lesson.exercise]
    place = page.index(f'@exercise("{lesson.exercise}")')
    check = page.index("check(", after=place)
    stub = "# Write your code here, in place of the next line.\n    raise exercise.NotAttempted"
    assert stub in page.source(place)

    assert page.output(check) == [f"○ {lesson.exercise}: not attempted yet"]
    page.picture("4-unwritten")

    def attempt(body, name):
        page.write(place, page.source(place).replace(stub, body))
        page.run(place)
        page.run(check)
        page.cell(check)
        page.picture(f"5-exercise-{name}")
        (text,) = page.output(check)
        return text.splitlines()

    headline, *rest = attempt("return not_defined_anywhere", "raising")
    assert headline.startswith(f"! {lesson.exercise}: your code raised NameError: name 'not_defined_anywhere'")
    case = exercise.make_cases()[0]
    assert f"The first case that raised, {case.name}:" in rest[0]
    for parameter in list(inspect.signature(exercise.solution).parameters)[: len(case.args)]:
        assert any(line.strip().startswith(parameter) for line in rest), f"the check does not show {parameter}"

    headline, *rest = attempt(lesson.wrong, "wrong")
    assert headline.startswith(f"✗ {lesson.exercise}: ")
    (mistake,) = [mistake for mistake in exercise.mistakes if mistake.name == lesson.mistake]
    assert mistake.message in plain(" ".join(rest))

    (headline,) = attempt(lesson.right, "right")
    assert headline.startswith(f"✓ {lesson.exercise}: ")


def test_a_lab_follows_its_slider(page, lesson):
    if lesson.lab is None:
        pytest.skip(f"lesson {lesson.name} has no lab with a slider")
    place = page.index(f'lab("{lesson.lab}")')
    image, status = page.cell(place).locator("img.widget-image"), page.cell(place).locator("[role=status]")
    page.picture("6-lab-as-it-opens")
    before, sentence = image.get_attribute("src"), status.text_content()
    handle = page.tab_to(place, ".noUi-handle")
    value = handle.get_attribute("aria-valuenow")
    page.page.keyboard.press("ArrowLeft")
    from playwright.sync_api import expect  # there, or `page` had skipped

    # Both are looked up anew at every try: with its text, the sentence's element is replaced too.
    expect(image).not_to_have_attribute("src", before, timeout=LOAD)
    expect(status).not_to_have_text(sentence, timeout=LOAD)
    assert handle.get_attribute("aria-valuenow") != value
    assert image.evaluate("image => image.complete && image.naturalWidth") > 400
    page.picture("7-lab-moved")


def test_a_notebook_that_was_not_run_shows_its_fallbacks(open_notebook, lesson):
    with open_notebook(f"solved/{lesson.name}.ipynb") as page:
        cell = page.cell(page.index(f'quiz("{lesson.quiz}")'))
        assert cell.locator("ol li").count() == len(bank()[lesson.quiz].options)
        assert cell.locator("ol li").first.is_visible()
        assert cell.locator("input").count() == 0
        answers = cell.locator("details li").first
        assert not answers.is_visible()
        cell.locator("summary").click()
        answers.wait_for(state="visible")
        page.picture("8-quiz-not-run")
        if lesson.lab:
            image = page.cell(page.index(f'lab("{lesson.lab}")')).locator("img")
            image.wait_for(state="visible")
            assert image.evaluate("image => image.naturalWidth") > 400
            page.picture("9-lab-not-run")
