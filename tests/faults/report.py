"""What a run of the fault program prints."""

from __future__ import annotations

import re
from collections import Counter

from .session import Result

COUNTED = (
    "gap",
    "duplicate",
    "repeated",
    "reordering",
    "wrong bytes",
    "false ending",
    "needless abort",
    "disagreement",
    "end after a loss",
    "stop ignored",
    "needless loss",
    "original cut",
    "run cut short",
    "missed resume",
    "refused offset",
    "wrong answer",
    "hang",
    "late ending",
    "sluggish ending",
    "stuck run",
    "unclean exit",
    "left behind",
    "key without TTL",
    "lost work",
)
_SHOWN = 4
_SUSPICIOUS = re.compile(
    r"^.*(?:never retrieved|was destroyed but it is pending|was never awaited|ResourceWarning"
    r"|Exception ignored|AssertionError|SealedError).*$",
    re.MULTILINE,
)


def lost_work(result: Result) -> list[str]:
    """What the workers wrote of tasks and exceptions that nobody looked after."""
    return [
        f"{name}: {found[0]}" for name, text in result.logs.items() for found in _SUSPICIOUS.finditer(text)
    ]


def text(result: Result) -> str:
    options, ledger = result.options, result.ledger
    workers = f"{options.workers} workers, lease {options.worker.lease} s"
    lines = [f"seed {options.seed}, {options.seconds:.0f} s, {workers}"]
    lines += [f"  {name}: {value}" for name, value in result.figures.items()]
    lines.append("faults by kind")
    lines += [f"  {kind}: {count}" for kind, count in sorted(ledger.faults.items())]
    lines.append("answers")
    lines += [f"  {name}: {count}" for name, count in sorted(result.statuses.items())]
    lines.append("ends of streams")
    lines += [f"  {name}: {count}" for name, count in sorted(result.outcomes.items())]
    lines.append("failures")
    kinds = Counter(failure.kind for failure in result.failures)
    lost = lost_work(result)
    kinds["lost work"] += len(lost)
    lines += [f"  {kind}: {kinds[kind]}" for kind in (*COUNTED, *sorted(set(kinds) - set(COUNTED)))]
    lines += [f"LOST WORK {line}" for line in lost[:_SHOWN]]
    shown: Counter[str] = Counter()
    for failure in result.failures:
        shown[failure.kind] += 1
        if shown[failure.kind] > _SHOWN:
            continue
        when = f"{failure.start - ledger.began:.2f} to {failure.end - ledger.began:.2f} s"
        lines.append(
            f"FAILURE {failure.kind}: seed {options.seed}, run {failure.run}, {when}\n    {failure.what}"
        )
        if failure.end:
            lines += [f"      | {entry}" for entry in ledger.around(failure.start, failure.end)]
    return "\n".join(lines)


def passed(result: Result) -> bool:
    return not result.failures and not lost_work(result)
