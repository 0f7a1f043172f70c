"""Where an answer's words come from: a model when one is configured, else the built-in storyteller."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import storyteller

WORDS_PER_SECOND = float(os.environ.get("CHAT_WORDS_PER_SECOND", "27"))


class AnswerError(Exception):
    """There is no answer, or no complete one; the message is for the reader of the chat."""


def answered_by() -> str:
    return _model() if _has_model() else "Built-in storyteller"


def answer(conversation: list[tuple[str, str]]) -> AsyncIterator[str]:
    """The answer to `(role, text)` messages, piece by piece; iterating raises `AnswerError`."""
    return _ask_model(conversation) if _has_model() else _tell_story(conversation)


async def _tell_story(conversation: list[tuple[str, str]]) -> AsyncIterator[str]:
    prompt = next((text for role, text in reversed(conversation) if role == "user"), "")
    for word in re.findall(r"\S+\s*", storyteller.tell(prompt)):
        yield word
        # A pause after each sentence reads better than an even pace.
        await asyncio.sleep((3 if word.rstrip().endswith((".", "?", "!")) else 0.8) / WORDS_PER_SECOND)


async def _ask_model(conversation: list[tuple[str, str]]) -> AsyncIterator[str]:
    from openai import AsyncOpenAI, OpenAIError  # imported only if a model is configured

    messages: Any = [{"role": role, "content": text} for role, text in conversation]
    try:
        # Local servers that speak this protocol need no key, but the client requires one.
        async with AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "none")) as client:
            stream = await client.chat.completions.create(model=_model(), messages=messages, stream=True)
            async for chunk in stream:
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    yield piece
    except OpenAIError as error:
        raise AnswerError(f"The model could not answer: {error}") from error


def _has_model() -> bool:
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))


def _model() -> str:
    return os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
