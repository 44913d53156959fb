"""The text of a conversation: rendered by the checkpoint's own chat template, with the place of every field in it.

The video stands first in the first user turn, because under a causal mask only tokens after it can attend to it. Where
a field lies in the rendered text is found by rendering it once more with a private-use character in its place, so
repeated words or a question called "user" confuse nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from components.core.errors import DataError, ParameterError
from components.core.records import TextField
from components.models.vlm.batch import IGNORED
from components.models.vlm.interface import Conversation

_SENTINEL = "\ue000"
_OWN_TEMPLATE = "use the checkpoint's own chat_template"


def refuse_control_tokens(conversation: Conversation, tokenizer: Any, placeholder: str) -> None:
    """Raise where the text would be read as the model's control tokens.

    Raises:
        DataError: a control token, the video's placeholder or the private-use character in the text.
    """
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    control |= {_SENTINEL, placeholder}
    texts = [text for turn in conversation.earlier for text in turn]
    texts += [conversation.question, conversation.response or ""]
    if found := sorted(token for token in control if any(token in text for text in texts)):
        remedy = "remove them from the sample's text"
        raise DataError(f"control tokens {found} in the text", source="the conversation", remedy=remedy)


def render(
    conversation: Conversation, tokenizer: Any, placeholder: str, video: str
) -> tuple[str, dict[TextField, tuple[int, int]]]:
    """Return the whole text with `video` in the placeholder's place, and the character span of each field.

    Raises:
        ParameterError: the template has not one placeholder, or changes a field's text.
    """
    rendered = _templated(conversation, tokenizer)
    if (count := rendered.count(placeholder)) != 1:
        problem = f"{count} × {placeholder!r} for one video"
        raise ParameterError(problem, source="the chat template", remedy=_OWN_TEMPLATE)
    text = rendered.replace(placeholder, video)
    fields: dict[TextField, str] = {"question": conversation.question}
    marked = {"question": _templated(replace(conversation, question=_SENTINEL), tokenizer)}
    if conversation.response is not None:
        fields["response"] = conversation.response
        marked["response"] = _templated(replace(conversation, response=_SENTINEL), tokenizer)
    spans: dict[TextField, tuple[int, int]] = {}
    for name, value in fields.items():  # every field stands behind the video
        start = marked[name].index(_SENTINEL) + len(text) - len(rendered)
        if text[start : start + len(value)] != value:
            raise ParameterError(f"the chat template changes the {name}", source="chat_template", remedy=_OWN_TEMPLATE)
        spans[name] = (start, start + len(value))
    return text, spans


def response_labels(
    input_ids_N: Int[Tensor, " N"],
    offsets_N2: Int[Tensor, "N 2"],
    span: tuple[int, int] | None,
    tokenizer: Any,
    end_of_turn: str,
) -> Int[Tensor, " N"]:
    """Return the response's tokens and the token that ends its turn, -100 elsewhere (everywhere without a response).

    Raises:
        ParameterError: another token follows the response.
    """
    if span is None:
        return torch.full_like(input_ids_N, IGNORED)
    inside_N = (offsets_N2[:, 1] > span[0]) & (offsets_N2[:, 0] < span[1])
    end = int(torch.nonzero(offsets_N2[:, 0] >= span[1])[0])
    if int(input_ids_N[end]) != tokenizer.convert_tokens_to_ids(end_of_turn):
        problem = f"no {end_of_turn} after the response"
        raise ParameterError(problem, source="chat_template", remedy=_OWN_TEMPLATE)
    inside_N[end] = True
    return torch.where(inside_N, input_ids_N, IGNORED)


def _templated(conversation: Conversation, tokenizer: Any) -> str:
    messages: list[dict[str, Any]] = []
    for question, response in [*conversation.earlier, (conversation.question, conversation.response)]:
        video = [] if messages else [{"type": "video"}]
        messages.append({"role": "user", "content": [*video, {"type": "text", "text": question}]})
        if response is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": response}]})
    asked = conversation.response is None
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
    return rendered
