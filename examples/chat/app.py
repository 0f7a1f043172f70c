"""A chat whose answers survive a reload, a lost network and a closed tab.

One line, `app.add_middleware(ResumableStreamMiddleware)`, makes the answers resumable. The rest is an
ordinary streaming chat that knows nothing about it. Run it with `./scripts/demo`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from answers import AnswerError, answer, answered_by
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from resumable_asgi import ResumableStreamMiddleware

app = FastAPI(title="Resumable chat")
app.add_middleware(ResumableStreamMiddleware)


class Part(BaseModel):
    type: str
    text: str = ""


class Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    parts: list[Part]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if part.type == "text")


class ChatRequest(BaseModel):
    """What the AI SDK's `useChat` posts; the middleware finds the stream's key in `id`."""

    id: str
    messages: list[Message]


@app.post("/api/chat")
async def chat(request: ChatRequest) -> StreamingResponse:
    conversation = [(message.role, message.text) for message in request.messages]
    return StreamingResponse(
        ui_message_stream(answer(conversation)),
        media_type="text/event-stream",
        headers={
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            "x-vercel-ai-ui-message-stream": "v1",
        },
    )


@app.get("/api/about")
async def about() -> dict[str, str]:
    return {"answered_by": answered_by()}


async def ui_message_stream(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """The pieces of one answer in the AI SDK's UI message stream protocol."""
    text_id = uuid4().hex
    yield event({"type": "start"})
    yield event({"type": "text-start", "id": text_id})
    try:
        async for piece in pieces:
            yield event({"type": "text-delta", "id": text_id, "delta": piece})
    except AnswerError as error:
        yield event({"type": "error", "errorText": str(error)})
    else:
        yield event({"type": "text-end", "id": text_id})
        yield event({"type": "finish"})
    yield "data: [DONE]\n\n"


def event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))
