"""The constitution's lab: principles are struck out, and labeler and policy follow."""

from rlhf_course.learn.labs.constitution import Constitution


def test_the_labeler_follows_the_principles():
    view = Constitution()
    assert "the labeler is undecided" in view.reading.value  # a wrong fact against jargon, one broken principle each
    view.widgets["true_facts"].value = False
    assert "prefers A, P = 0.88" in view.reading.value
    assert "Struck out: true facts" in view.reading.value
    view.widgets["true_facts"].value = True
    view.widgets["plain_words"].value = False
    assert "prefers B, P = 0.88" in view.reading.value


def test_the_policy_follows_too():
    view = Constitution()
    before = bytes(view.image.value)
    habits = view.reading.value
    view.widgets["no_flattery"].value = False
    assert bytes(view.image.value) != before
    assert view.reading.value.split("no flattery")[-1] != habits.split("no flattery")[-1]
    view.widgets["no_flattery"].value = True
    assert bytes(view.image.value) == before
