"""Interview practice in a real browser, by keyboard alone, and the recap as a page that was not run."""

import pytest

from rlhf_course.learn.interview_bank import interview_bank

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = "13_recap.ipynb"
INTERVIEW = "interview()"


@pytest.fixture(scope="module")
def page(open_notebook):
    """The recap, opened and run to its end."""
    with open_notebook(NOTEBOOK) as page:
        page.run_all()
        yield page


def test_the_recap_runs_to_its_end_without_an_error(page):
    assert page.stored_errors() == []
    cell = page.cell(page.index("reading_list()"))
    assert cell.locator("a").count() > 20
    page.picture("1-reading-list")


def test_an_answer_is_written_compared_and_scored_by_keyboard(page):
    question = next(iter(interview_bank().values()))
    place = page.index(INTERVIEW)
    cell = page.cell(place)
    alerts = cell.locator("[role=alert]")
    cell.get_by_text(question.text).first.wait_for()
    page.picture("2-question")

    page.tab_to(place, "button", 0)
    page.page.keyboard.press("Enter")
    alerts.filter(has_text="Write your own answer first").wait_for()

    page.tab_to(place, "textarea")
    page.page.keyboard.type("people compare answers, a score is fitted, RL raises it, KL holds it")
    page.page.keyboard.press("Tab")  # an answer counts once the box is left
    page.tab_to(place, "button", 0)
    page.page.keyboard.press("Enter")
    alerts.filter(has_text="The model answer is below").wait_for()
    assert cell.locator("input[type=checkbox]").count() == len(question.points)
    page.picture("3-model-answer")

    for number in (0, 2):
        page.tab_to(place, "input[type=checkbox]", number)
        page.page.keyboard.press("Space")
    page.tab_to(place, "button", 2)
    page.page.keyboard.press("Enter")
    alerts.filter(has_text=f"Kept: 2 of {len(question.points)} points").wait_for()
    page.tab_to(place, "summary")
    page.page.keyboard.press("Enter")
    cell.get_by_text(question.follow_ups[0].answer[:40]).wait_for()
    page.picture("4-scored")

    page.tab_to(place, "button", 1)
    page.page.keyboard.press("Enter")
    cell.get_by_text(list(interview_bank().values())[1].text).first.wait_for()
    assert cell.locator("input[type=checkbox]").count() == 0


def test_a_recap_that_was_not_run_shows_every_question_with_its_answer_folded(open_notebook):
    with open_notebook(f"solved/{NOTEBOOK}") as page:
        cell = page.cell(page.index(INTERVIEW))
        folds = cell.locator("summary", has_text="Answer, rubric and follow-up")
        assert folds.count() == len(interview_bank())
        question = next(iter(interview_bank().values()))
        answer = cell.get_by_text(question.answer[:40]).first
        assert not answer.is_visible()
        folds.first.click()
        answer.wait_for(state="visible")
        page.picture("5-not-run")
