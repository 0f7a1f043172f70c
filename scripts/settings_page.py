"""Writes the reference in docs/settings.md: the fields of the settings classes, with their docstrings.

Run it after every change of src/resumable_asgi/settings.py: python scripts/settings_page.py
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "resumable_asgi" / "settings.py"
PAGE = ROOT / "docs" / "settings.md"

MARK = "<!-- Everything below is generated"
"""The line that begins like this, and all before it, is written by hand."""

CLASSES = ("Settings", "ResumableRoute")


def current(page: str, source: str) -> str:
    """The text of `page`, with a reference that agrees with `source`."""
    by_hand, mark, rest = page.partition(MARK)
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    sections = [f"## `{name}`\n\n" + "\n\n".join(_fields(classes[name], source)) for name in CLASSES]
    return by_hand + mark + rest.partition("\n")[0] + "\n\n" + "\n\n".join(sections) + "\n"


def _fields(node: ast.ClassDef, source: str) -> Iterator[str]:
    """What each field of a dataclass is; a docstring is the string after its field."""
    for field, after in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if not _is_given(field.value):
            continue
        if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
            raise SystemExit(f"{node.name}.{field.target.id} has no docstring")
        text = inspect.cleandoc(str(after.value.value))
        default = _default(field.value)
        written = "" if default is None else f" = {ast.get_source_segment(source, default)}"
        yield f"### {field.target.id}\n\n`{ast.unparse(field.annotation)}{written}`\n\n{text}"


def _is_given(value: ast.expr | None) -> bool:
    """Not `field(init=False)`."""
    return not (isinstance(value, ast.Call) and any(each.arg == "init" for each in value.keywords))


def _default(value: ast.expr | None) -> ast.expr | None:
    """The expression of a field's default; None where the docstring describes it."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        keywords = {each.arg: each.value for each in value.keywords}
        factory = keywords.get("default_factory")
        value = factory.body if isinstance(factory, ast.Lambda) else keywords.get("default", factory)
    return None if value is None or ast.unparse(value) == "DEFAULT" else value


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text(), SOURCE.read_text()))
