"""docs/sandbox.md says what the sandbox does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.sandbox import Sandbox, World, hooks
from bg_pipelines.sandbox.faults import KINDS
from bg_pipelines.sandbox.scenario import SCENARIOS
from bg_pipelines.sandbox.shopify.edits import EDITS
from bg_pipelines.sandbox.square import api as square
from bg_pipelines.sandbox.square import edits as square_edits
from bg_pipelines.sandbox.twilio import account
from bg_pipelines.sandbox.twilio import api as twilio
from bg_pipelines.sandbox.twilio import edits as twilio_edits

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


def test_twilios_edits_and_faults_are_told(page: str) -> None:
    part = page.partition("## Twilio")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(set_\w+|reply)` \| (.+) \|$", part, re.MULTILINE))
    assert rows.keys() == twilio_edits.EDITS.keys()
    for name, (_, fields) in twilio_edits.EDITS.items():
        assert all(f"`{field}`" in rows[name] for field in fields), name
    told = part.partition("The kinds are ")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"`(\w+)`", told)) == twilio.KINDS
    codes = [*account.FAILURES, *account.REFUSALS]
    assert all(str(code) in part for code in codes)


def test_squares_operations_edits_and_faults_are_told(page: str) -> None:
    part = page.partition("## Square")[2].partition("\n## ")[0]
    requests = re.findall(r"^\| `(\w+) /v2/([^`]+)`.* \| `(\w+)`", part, re.MULTILINE)
    assert requests == [
        (operation.method, operation.path.replace("{}", "{id}"), operation.name)
        for operation in square.OPERATIONS
    ]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", part, re.MULTILINE))
    assert rows.keys() == square_edits.EDITS.keys()
    for name, (_, fields) in square_edits.EDITS.items():
        assert all(f"`{field}`" in rows[name] for field in fields), name
    told = part.partition("The kinds are ")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"`(\w+)`", told)) == square.KINDS


def test_the_faults_of_hooks_and_the_scenarios_are_told(page: str) -> None:
    part = page.partition("## Hooks")[2].partition("\n## ")[0]
    told = part.partition("The kinds are ")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"`(\w+)`", told)) == hooks.KINDS
    part = page.partition("## Scenarios")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in part for name in SCENARIOS)


def test_the_script_of_the_afternoon_is_told_step_by_step(page: str) -> None:
    scenario = SCENARIOS["afternoon"]()
    told = re.findall(r"^\| (\d\d:\d\d) \| (.+) \|$", page, re.MULTILINE)
    steps = [step for step in scenario.steps if not step.sentence.startswith("edits:")]
    assert [time for time, _ in told] == [scenario.time_of(step.at_seconds) for step in steps]


def test_the_examples_run(page: str) -> None:
    pytest.importorskip("square", reason="the vendor's client (squareup) is not installed")
    first, *others = re.findall(r"^```python\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(first, names)
    with Sandbox(World(shops=1, variants=4, merchants=1, square_variants=4, square_customers=2)) as sandbox:
        names |= {"sandbox": sandbox, "account": sandbox.world.twilio}
        for example in others:
            exec(example, names)
    assert len(others) == 3


def test_it_says_first_what_it_does_not_do(page: str) -> None:
    assert page.split("\n\n")[1].startswith("**The sandbox is not Shopify, Square or Twilio.")
