"""docs/sandbox.md says what the sandbox does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bg_pipelines.sandbox.edits import EDITS
from bg_pipelines.sandbox.faults import KINDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sandbox.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_fault_is_in_the_table_in_the_programs_own_words(page: str) -> None:
    table = page.partition("## Faults")[2].partition("## Cost")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)) == KINDS


def test_every_edit_is_in_the_table_with_what_it_takes(page: str) -> None:
    table = page.partition("| edit | takes |")[2].partition("## Faults")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE))
    assert rows.keys() == EDITS.keys()
    for name, (_, fields) in EDITS.items():
        assert all(f"`{field}`" in rows[name] for field in fields), name


def test_it_says_first_what_it_does_not_do(page: str) -> None:
    assert page.split("\n\n")[1].startswith("**The sandbox is no Shopify.")
