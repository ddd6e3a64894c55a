"""Talk to a model in a cell: `chat(model, tokenizer)`.

Core widgets alone, in what ipywidgets 7.7 and 8 share. Where no widget can live (GitHub, nbviewer, PDF) the same output
says what would be here.
"""

import html
import warnings

import ipywidgets
import torch
from IPython.display import display
from torch import nn

from rlhf_course.data.collators import collate_prompts
from rlhf_course.data.tokenize import encode_prompt
from rlhf_course.generation import generate
from rlhf_course.learn.mime import block, widget_bundle

_STATIC = "Run this cell in a notebook with a kernel to chat with the model."


def chat(model: nn.Module, tokenizer, max_new_tokens: int = 96, temperature: float = 0.7) -> None:
    """Show a chat with a model. It keeps the dialogue, and each answer is a continuation of all of it.

    Args:
        model: a causal language model, LoRA models included.
        tokenizer: the model's, with a chat template.
        max_new_tokens: the longest answer, in tokens; what is longer ends in "…".
        temperature: of sampling; 0 takes the likeliest token each time.
    """
    ChatView(model, tokenizer, max_new_tokens, temperature).show()


class ChatView:
    """The chat as a widget: type, press Enter (or Send), wait for the answer.

    Attributes:
        messages: the dialogue so far, as chat messages.
        log: an HTML with `role="log"`, which a screen reader speaks as it grows.
        text: the Text to type into.
        send, forget: the buttons.
        box: all of it.
    """

    def __init__(self, model: nn.Module, tokenizer, max_new_tokens: int = 96, temperature: float = 0.7):
        if not tokenizer.chat_template:
            raise ValueError("tokenizer has no chat template: this model was not made for dialogues")
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.messages: list[dict[str, str]] = []
        self._busy = False
        self.log = ipywidgets.HTML()
        self.text = ipywidgets.Text(
            placeholder="Say something", description="You:", layout=ipywidgets.Layout(width="auto")
        )
        self.send = ipywidgets.Button(description="Send")
        self.forget = ipywidgets.Button(description="Start again")
        self.send.on_click(self._answer)
        with (
            warnings.catch_warnings()
        ):  # ipywidgets 8 would rather have `observe`, which takes leaving the field for Enter
            warnings.simplefilter("ignore", DeprecationWarning)
            self.text.on_submit(self._answer)
        self.forget.on_click(self._forget)
        self.box = ipywidgets.VBox([self.log, self.text, ipywidgets.HBox([self.send, self.forget])])
        self._show("")

    def show(self) -> None:
        """Display the widget, with a sentence beside it for where widgets do not live."""
        display(widget_bundle(self.box, _STATIC, {"text/html": f"<p><i>{_STATIC}</i></p>"}), raw=True)

    def reply(self) -> str:
        """The model's answer to the dialogue. Of one that is too long for the model, the oldest turns are left out."""
        longest = getattr(self.model.config, "max_position_embeddings", None) or 2048
        messages = self.messages
        while len(ids := encode_prompt(self.tokenizer, messages)) + self.max_new_tokens > longest:
            if len(messages) < 3:
                raise ValueError(f"the message has {len(ids)} tokens, too many for this model: shorten it")
            messages = messages[2:]
        prompt = collate_prompts([{"prompt_ids": ids}], self.tokenizer.pad_token_id)
        device = next(self.model.parameters()).device
        found = generate(
            self.model,
            prompt["input_ids"].to(device),
            prompt["attention_mask"].to(device),
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            temperature=self.temperature,
            generator=torch.Generator().manual_seed(len(self.messages)),
        ).completion_ids[0]
        ended = self.tokenizer.eos_token_id in found.tolist()
        return self.tokenizer.decode(found, skip_special_tokens=True).strip() + ("" if ended else " …")

    def _answer(self, _widget) -> None:
        said = self.text.value.strip()
        if self._busy or not said:
            return
        self._set_busy(True)
        self.text.value = ""
        self.messages.append({"role": "user", "content": said})
        self._show("<p><i>The model is writing …</i></p>")
        try:
            self.messages.append({"role": "assistant", "content": self.reply()})
            self._show("")
        except Exception as error:  # told in the chat: a callback's traceback goes unseen
            self.messages.pop()
            self.text.value = said
            self._show(f'<p role="alert"><b>No answer:</b> {html.escape(str(error))}</p>')
        finally:
            self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        # The field stays open: one that is disabled loses the focus, and the next message would need the mouse.
        self._busy = self.send.disabled = self.forget.disabled = busy

    def _forget(self, _button) -> None:
        self.messages = []
        self._show("")

    def _show(self, notice: str) -> None:
        who = {"user": "You", "assistant": "Model"}
        said = "".join(
            f'<p style="white-space: pre-wrap"><b>{who[message["role"]]}:</b> {html.escape(message["content"])}</p>'
            for message in self.messages
        )
        greeting = "" if said else "<p>Type a message and press Enter.</p>"
        self.log.value = f'<div role="log">{block(greeting + said + notice)}</div>'
