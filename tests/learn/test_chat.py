"""The chat widget, driven through its callbacks with a toy model that says what it was asked."""

import copy
import sys

import pytest
import torch
from transformers import LlamaForCausalLM

from rlhf_course.data.world import world_tokenizer
from rlhf_course.learn.chat import ChatView, chat
from rlhf_course.learn.mime import WIDGET_VIEW
from rlhf_course.models.tiny import tiny_config

TEMPLATE = "{% for m in messages %}{{ m['content'] }} <eos> {% endfor %}{% if add_generation_prompt %}<bos> {% endif %}"


@pytest.fixture(scope="module")
def tokenizer():
    found = copy.deepcopy(world_tokenizer())
    found.chat_template = TEMPLATE
    return found


@pytest.fixture
def view(tokenizer):
    torch.manual_seed(0)
    return ChatView(LlamaForCausalLM(tiny_config()).eval(), tokenizer, max_new_tokens=4)


def say(view, text):
    view.text.value = text
    view.send.click()


def test_a_dialogue_is_kept_and_every_answer_follows_all_of_it(view, monkeypatch):
    seen = []
    monkeypatch.setattr(view, "reply", lambda: seen.append([m["content"] for m in view.messages]) or f"<{len(seen)}>")
    say(view, "it is <b>")
    view.text.value = "hope that helps"
    view.text._handle_string_msg(None, {"event": "submit"}, [])  # Enter
    assert seen == [["it is <b>"], ["it is <b>", "<1>", "hope that helps"]]
    assert [m["role"] for m in view.messages] == ["user", "assistant"] * 2
    assert "it is &lt;b&gt;" in view.log.value and "&lt;2&gt;" in view.log.value and 'role="log"' in view.log.value
    assert view.text.value == ""
    view.forget.click()
    assert view.messages == [] and "press Enter" in view.log.value


def test_the_model_answers_within_its_tokens(view):
    say(view, "it is")
    answer = view.messages[-1]
    assert answer["role"] == "assistant" and answer["content"]
    assert len(answer["content"].removesuffix(" …").split()) <= 4


def test_one_answer_at_a_time_and_none_to_nothing(view, monkeypatch):
    def impatient():
        assert view.send.disabled and view.forget.disabled
        assert not view.text.disabled  # or it would lose the focus
        say(view, "again")
        return "once"

    monkeypatch.setattr(view, "reply", impatient)
    say(view, "it is")
    assert [m["content"] for m in view.messages] == ["it is", "once"]
    assert not (view.send.disabled or view.forget.disabled)
    view.text.value = "   "
    view.send.click()
    assert len(view.messages) == 2


def test_a_failure_is_told_and_the_words_are_not_lost(view, monkeypatch):
    monkeypatch.setattr(view, "reply", lambda: 1 / 0)
    say(view, "it is")
    assert view.messages == [] and view.text.value == "it is"
    assert 'role="alert"' in view.log.value and "division by zero" in view.log.value
    assert not view.send.disabled


def test_old_turns_make_room_and_a_message_that_has_none_is_refused(view):
    longest = view.model.config.max_position_embeddings
    view.messages = [{"role": "user", "content": "it " * 60}, {"role": "assistant", "content": "is " * 60}]
    view.messages.append({"role": "user", "content": "it is"})
    assert view.reply()
    view.messages = [{"role": "user", "content": "it " * longest}]
    with pytest.raises(ValueError, match="shorten it"):
        view.reply()


def test_it_needs_a_chat_template(view):
    with pytest.raises(ValueError, match="no chat template"):
        ChatView(view.model, world_tokenizer())


def test_where_no_widget_lives_a_sentence_stands(view, monkeypatch):
    shown = []
    monkeypatch.setattr(sys.modules[ChatView.__module__], "display", lambda bundle, raw: shown.append(bundle))
    chat(view.model, view.tokenizer)
    (bundle,) = shown
    assert WIDGET_VIEW in bundle and "chat with the model" in bundle["text/html"] and bundle["text/plain"]
