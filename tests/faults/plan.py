"""What one stream of the app under test says, and when: all of it follows from the plan in the request."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

_WORDS = ("plain", "naïve", "日本語", "🎉🎈", "ünïcödé", "Ω≈ç√∫", "tail\\n")
SEQUENCE = re.compile(rb'"seq":(\d+),')
_OPENING = b'{"type":"start"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One stream. Each event carries the run, its sequence number and a SHA-256 of all bytes before it."""

    run: str
    key: str
    dialect: Literal["plain", "ai"]
    events: int
    pace: float
    """Mean seconds between events."""
    newline: Literal["\n", "\r\n"]
    split: int
    """Cut the body every so many bytes, inside events and characters; 0 is one chunk an event."""
    ending: Literal["finish", "raise"]
    message_id: bool
    """Whether the app itself gives an AI SDK message its id."""

    @classmethod
    def draw(cls, rng: random.Random, run: str, key: str, *, longest: float) -> Plan:
        events = rng.randint(8, 60)
        return cls(
            run=run,
            key=key,
            dialect=rng.choice(("plain", "ai")),
            events=events,
            pace=rng.uniform(1.0, longest) / events,
            newline=rng.choice(("\n", "\r\n")),
            split=rng.choice((0, 0, 0, 7, 61, 1000)),
            ending="raise" if rng.random() < 0.06 else "finish",
            message_id=rng.random() < 0.3,
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Plan:
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def to_mapping(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def duration(self) -> float:
        return sum(delay for delay, _ in self.steps())

    def headers(self) -> dict[str, str]:
        """The run's name is in a header that is replayed, so that followers know whose bytes they got."""
        headers = {"cache-control": "no-cache", "x-run": self.run}
        if self.dialect == "ai":
            headers["x-vercel-ai-ui-message-stream"] = "v1"
        return headers

    def steps(self) -> Iterator[tuple[float, bytes]]:
        """Each chunk and the seconds to wait before it: bursts, steady tokens, at times a long silence."""
        rng = random.Random(self.run)
        events = list(self._events(rng))
        chunks = events
        if self.split:
            body = b"".join(events)
            chunks = [body[at : at + self.split] for at in range(0, len(body), self.split)]
        total = self.events * self.pace
        weights = [rng.choice((0.0, 0.0, 1.0, 1.0, 1.0, 2.0)) for _ in chunks]
        if rng.random() < 0.3:
            weights[rng.randrange(len(weights))] += sum(weights) / 2
        scale = total / (sum(weights) or 1.0)
        for weight, chunk in zip(weights, chunks, strict=True):
            yield weight * scale, chunk

    def _events(self, rng: random.Random) -> Iterator[bytes]:
        chain = hashlib.sha256()
        for event in self._payloads(rng, chain):
            chain.update(event)
            yield event

    def _payloads(self, rng: random.Random, chain: hashlib._Hash) -> Iterator[bytes]:
        if self.dialect == "ai":
            yield self._event({"type": "start"} | ({"messageId": "own"} if self.message_id else {}))
        for sequence in range(self.events):
            text = rng.choice(_WORDS) * (rng.choice((1, 3, 9)) if rng.random() < 0.98 else 900)
            fields = {"run": self.run, "seq": sequence, "sha": chain.copy().hexdigest(), "text": text}
            if self.dialect == "ai":
                yield self._event({"type": "data-link", "data": fields})
            else:
                yield self._event(fields, first=[f"id: {self.run}-{sequence}", "event: link"])
        if self.dialect == "ai":
            yield self._event({"type": "finish"})
            yield f"data: [DONE]{self.newline * 2}".encode()

    def _event(self, payload: Mapping[str, Any], first: list[str] | None = None) -> bytes:
        line = "data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        return (self.newline.join([*(first or []), line]) + self.newline * 2).encode()

    def recorded(self, sent: bytes, stream_id: str) -> bytes:
        """The log's bytes for what the app sent: as it is, but for the id that an AI SDK message is given."""
        first_event_ended = b"\n\n" in sent or b"\r\n\r" in sent
        if self.dialect != "ai" or self.message_id or not first_event_ended:
            return sent
        given = b'{"messageId":"%b","type":"start"' % stream_id.encode()
        return sent.replace(_OPENING, given, 1)
