"""Links lead somewhere, also from a package index, which shows the README alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import PAGES, ROOT

REPOSITORY = re.compile(r"https://github\.com/resumable-asgi/resumable-asgi/(?:blob|tree)/main/")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINKS = (re.compile(r"\]\(([^)\s]+)\)"), re.compile(r"^\[[^\]]+\]: (\S+)$", re.MULTILINE))
_REFERENCE = re.compile(r"\]\[([^\]]+)\]")


def links(page: str) -> list[str]:
    text = _FENCE.sub("", (ROOT / page).read_text())
    return [found for pattern in _LINKS for found in pattern.findall(text)]


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    for link in links(page):
        inside = REPOSITORY.sub("", link)
        if inside.startswith(("https://", "http://")):
            continue
        folder = (ROOT / page).parent if inside == link else ROOT
        target, _, anchor = inside.partition("#")
        path = (folder / target).resolve() if target else ROOT / page
        assert path.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(path), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_reference_is_defined(page: str) -> None:
    text = _CODE.sub("", _FENCE.sub("", (ROOT / page).read_text()))
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))
    assert set(_REFERENCE.findall(text)) == defined


def test_the_readme_links_to_nothing_relative() -> None:
    assert [link for link in links("README.md") if not link.startswith("https://")] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900
