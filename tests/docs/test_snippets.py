"""Every Python and TOML block of the documentation runs by itself, as somebody would paste it."""

from __future__ import annotations

import logging
import tomllib

import pytest
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from resumable_asgi import Settings

from .pages import PAGES, ROOT


def _load_toml(example: Example) -> None:
    Settings.from_mapping(tomllib.loads(example.parsed)["resumable"])


SNIPPETS = Sybil(parsers=[PythonCodeBlockParser(), CodeBlockParser("toml", _load_toml)])


def _documents() -> list[tuple[str, Document]]:
    documents = [(page, SNIPPETS.parse(ROOT / page)) for page in PAGES]
    return [(page, document) for page, document in documents if list(document.examples())]


@pytest.mark.parametrize(("page", "document"), [pytest.param(*each, id=each[0]) for each in _documents()])
def test_every_block_runs_without_those_before_it(
    page: str, document: Document, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An app that a block builds has its middleware in an order that nothing warns of."""
    monkeypatch.setenv("REDIS_URL", "memory://")
    with caplog.at_level(logging.WARNING):
        for example in document.examples():
            document.namespace.clear()
            document.namespace["__name__"] = "app"  # where annotations are looked up
            example.evaluate()
            if "app" in document.namespace:
                document.namespace["app"].build_middleware_stack()
    assert caplog.messages == []


def test_the_readme_and_the_settings_page_have_blocks() -> None:
    assert {"README.md", "docs/settings.md"} <= {page for page, _ in _documents()}
