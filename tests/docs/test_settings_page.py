"""docs/settings.md agrees with the source."""

from __future__ import annotations

import runpy

from .pages import ROOT

GENERATOR = ROOT / "scripts" / "settings_page.py"


def test_the_settings_page_is_current() -> None:
    generator = runpy.run_path(str(GENERATOR))
    page = generator["PAGE"].read_text()
    wanted = generator["current"](page, generator["SOURCE"].read_text())
    assert page == wanted, "run scripts/settings_page.py"
