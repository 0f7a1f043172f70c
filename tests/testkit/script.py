"""What an app under test shall answer: carried in the request, so that a test states it where it uses it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Script:
    """One answer. Without `pace` every chunk waits for the test to release it, and so does the end."""

    dialect: Literal["ai", "plain"] = "ai"
    kind: Literal["stream", "json", "bad"] = "stream"
    events: int = 6
    text: str = "word"
    newline: Literal["\n", "\r\n"] = "\n"
    split: int = 0
    """Cut the body every so many bytes, inside events and characters; 0 is one chunk an event."""
    message_id: str | None = None
    own_ids: bool = False
    """Write an SSE `id:` into each plain event: `own-0`, `own-1` and so on."""
    held_back: bool = False
    """Wait for the first release before the response begins, not after it."""
    pace: float | None = None
    """Seconds between chunks of an answer that does not wait for the test."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Script:
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def full_text(self) -> str:
        return "".join(self._words())

    @property
    def body(self) -> bytes:
        return b"".join(self._events())

    def chunks(self) -> list[bytes]:
        """What the app hands to `send`, piece by piece."""
        if not self.split:
            return self._events()
        body = self.body
        return [body[i : i + self.split] for i in range(0, len(body), self.split)]

    def headers(self) -> dict[str, str]:
        base = {"cache-control": "no-cache", "x-host": "kept"}
        if self.dialect == "ai":
            base |= {"x-vercel-ai-ui-message-stream": "v1", "x-accel-buffering": "no"}
        return base

    def _words(self) -> list[str]:
        return [f"{self.text}-{i} naïve 日本 🎉 " for i in range(self.events)]

    def _events(self) -> list[bytes]:
        if self.dialect == "plain":
            return [self._event({"n": i, "word": word}, n=i) for i, word in enumerate(self._words())]
        start = {"type": "start"} | ({"messageId": self.message_id} if self.message_id else {})
        parts: list[dict[str, Any]] = [start, {"type": "text-start", "id": "t"}]
        parts += [{"type": "text-delta", "id": "t", "delta": word} for word in self._words()]
        parts += [{"type": "text-end", "id": "t"}, {"type": "finish"}]
        return [*(self._event(part) for part in parts), f"data: [DONE]{self.newline * 2}".encode()]

    def _event(self, payload: Mapping[str, Any], n: int | None = None) -> bytes:
        lines = [] if n is None else ["event: word"]
        if self.own_ids:
            lines.append(f"id: own-{n}")
        lines.append("data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")))
        return (self.newline.join(lines) + self.newline * 2).encode()
