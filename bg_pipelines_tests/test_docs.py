"""Documentation that cannot rot: links lead somewhere, every command and setting is described as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from bg_pipelines.cli.app import app
from bg_pipelines.errors import ErrorType
from bg_pipelines.settings import Settings
from bg_pipelines_tests.support import PROJECT

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
HEADER = """# Commands

Made by `python -m bg_pipelines_tests.test_docs`; a test holds it to the program.
"""


def command_lines(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command, the group's own first: what is a group is known once its context is made."""
    lines = [words]
    command.make_context("bg-pipelines", ["x"], resilient_parsing=True)
    for name, inner in getattr(command, "commands", {}).items():
        lines += command_lines(inner, (*words, name))
    return lines


def reference() -> str:
    """docs/cli.md, from what the commands say of themselves."""
    runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "100", "NO_COLOR": "1"})
    text = HEADER
    for words in command_lines(typer.main.get_command(app)):
        result = runner.invoke(app, [*words, "--help"], prog_name="bg-pipelines")
        assert result.exit_code == 0, result.output
        lines = (line.rstrip() for line in result.output.strip().splitlines())
        text += f"\n## bg-pipelines {' '.join(words)}".rstrip() + "\n\n```\n" + "\n".join(lines) + "\n```\n"
    return text


def test_the_reference_of_commands_is_what_they_say_of_themselves() -> None:
    assert (PROJECT / "docs" / "cli.md").read_text() == reference(), (
        "run python -m bg_pipelines_tests.test_docs"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            # As GitHub makes them: letters, digits, hyphens and underscores alone.
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_every_setting_stands_in_the_documentation_and_in_the_example() -> None:
    running, example = (PROJECT / "docs" / "running.md").read_text(), (PROJECT / ".env.example").read_text()
    for name in Settings.model_fields:
        assert f"`BG_{name.upper()}`" in running
        assert f"#BG_{name.upper()}=" in example


def test_every_error_type_stands_in_the_page_for_those_on_call() -> None:
    page = (PROJECT / "docs" / "on-call.md").read_text()
    assert {t.value for t in ErrorType} - set(re.findall(r"`(\w+)`", page)) == set()


if __name__ == "__main__":
    (PROJECT / "docs" / "cli.md").write_text(reference())
