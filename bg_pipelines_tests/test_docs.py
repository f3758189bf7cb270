"""Documentation that cannot rot: links lead somewhere; commands, settings and metrics are described as they are."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from bg_pipelines.cli.app import app
from bg_pipelines.errors import DEFAULTS, ErrorType
from bg_pipelines.queues import JOBS, QUEUES, STORES_SYNC, STORES_SYNC_GROUPS, TIERS
from bg_pipelines.retries import POLICIES, Strategy
from bg_pipelines.settings import Settings
from bg_pipelines.wording import span
from bg_pipelines_tests.operations.example_figures import all_metrics
from bg_pipelines_tests.support import PROJECT

PAGES = [*sorted(PROJECT.glob("*.md")), PROJECT / "llms.txt", *sorted((PROJECT / "docs").glob("*.md"))]
MADE = "\nMade by `python -m bg_pipelines_tests.test_docs`; a test holds it to the program.\n"
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


def settings_reference() -> str:
    """docs/settings.md, from what the settings say of themselves."""
    lines = [
        "# Settings",
        MADE,
        "From the environment or a file `.env` ([running](running.md#settings) says how). An empty variable counts as unset.",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, tuple):
            default = ",".join(default)
        shown = (
            ""
            if default in (None, "", {})
            else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        lines.append(f"| `BG_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


LEVELS = ("queue", "job", "store")


def metrics_reference() -> str:
    """docs/metrics.md, from what the metrics say of themselves."""
    parts = all_metrics()
    names = {metric.name for part in parts.values() for metric in part}
    lines = [
        "# Metrics",
        MADE,
        "All begin with `bg_pipelines_`. [Monitoring](monitoring.md#figures) explains the figures, [alert rules]"
        "(monitoring.md#alert-rules) say when to worry. A histogram here is of a moment or of a day, and no counter since the "
        "start: `histogram_quantile` without `rate`. Only the receiver's own count since its start.",
    ]
    for part, heading in (
        (
            "figures",
            "## Figures\n\nAt the receiver's `/metrics` and of `bg-pipelines metrics`; those of single stores only of the latter.",
        ),
        ("receiver", "## The receiver\n\nAt its `/metrics`, over all of its processes."),
    ):
        lines += ["", heading, "", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        for metric in parts[part]:
            name = metric.name.removeprefix("bg_pipelines_")
            level, _, rest = name.partition("_")
            named, labels = f"`{name}`", ", ".join(metric.labels)
            if (
                level in LEVELS
                and f"bg_pipelines_queue_{rest}" in names
                and f"bg_pipelines_job_{rest}" in names
            ):
                if level != "queue":
                    continue
                held = [each for each in LEVELS if f"bg_pipelines_{each}_{rest}" in names]
                named = ", ".join(f"`{each}_{rest}`" for each in held)
                labels = "queue; job, queue" + ("; store, platform, job" if "store" in held else "")
            lines.append(f"| {named} | {metric.type} | {labels} | {metric.meaning} |")
    return "\n".join(lines) + "\n"


GENERATED = {"cli.md": reference, "settings.md": settings_reference, "metrics.md": metrics_reference}


def tiers_table() -> str:
    lines = ["| tier | a store of it is due | its schedule looks |", "| --- | --- | --- |"]
    for tier, interval in TIERS.items():
        cron = JOBS["store_sync"].crons[f"tier_{tier}"]
        lines.append(f"| {tier} | every {interval.seconds // 60} minutes | `{cron}` |")
    return "\n".join(lines)


def queues_table() -> str:
    lines = ["| queue | jobs | priority | runs at once |", "| --- | --- | --- | --- |"]
    for queue in QUEUES:
        jobs = []
        for name, job in JOBS.items():
            if job.queue is queue:
                limit = job.max_concurrent_runs
                jobs.append(f"`{name}`" + (f" ({limit})" if limit else ""))
        groups = ""
        if queue is STORES_SYNC:
            groups = ": " + ", ".join(f"{runs} of `{group}`" for group, runs in STORES_SYNC_GROUPS.items())
        lines.append(
            f"| `{queue.name}` | {', '.join(jobs)} | {queue.priority} | {queue.max_concurrent_runs}{groups} |"
        )
    return "\n".join([*lines, "", "In parentheses: how many runs of that job at once."])


def policies_table() -> str:
    lines = [
        "| type | severity | strategy | delay | cap | attempts |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ErrorType:
        policy, is_manual = POLICIES[kind], POLICIES[kind].strategy is Strategy.MANUAL_INTERVENTION
        backs_off = policy.strategy is Strategy.EXPONENTIAL_BACKOFF
        delay = "" if is_manual else f"{'up to ' if backs_off else ''}{span(policy.delay_seconds)}"
        cap = span(policy.cap_seconds) if backs_off else ""
        attempts = "" if is_manual else f"{policy.max_attempts}"
        lines.append(
            f"| `{kind}` | {DEFAULTS[kind].severity} | {policy.strategy} | {delay} | {cap} | {attempts} |"
        )
    return "\n".join(lines)


TABLES = {
    ("queues-and-tiers.md", "tiers"): tiers_table,
    ("queues-and-tiers.md", "queues"): queues_table,
    ("errors-and-retries.md", "policies"): policies_table,
}


def with_table(page: str, name: str) -> str:
    """The page with this table as the program has it."""
    text = (PROJECT / "docs" / page).read_text()
    begin = f"<!-- {name}: made by `python -m bg_pipelines_tests.test_docs` -->\n"
    before, _, rest = text.partition(begin)
    _, end, after = rest.partition("<!-- end -->")
    assert end, f"{page} has no place for {name}"
    return f"{before}{begin}{TABLES[page, name]()}\n{end}{after}"


@pytest.mark.parametrize(("page", "name"), TABLES)
def test_a_table_within_a_page_is_what_the_program_has(page: str, name: str) -> None:
    assert (PROJECT / "docs" / page).read_text() == with_table(page, name), (
        "run python -m bg_pipelines_tests.test_docs"
    )


def test_each_package_that_is_installed_is_justified_and_no_other() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    page = (PROJECT / "docs" / "architecture.md").read_text()
    main, _, optional = page.partition("## What it stands on")[2].partition("Optional:")

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=; ]", requirement)[0] for requirement in requirements}

    def justified(table: str, column: int) -> set[str]:
        rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
        return {name for row in rows for name in re.findall(r"`([^`]+)`", row[column])}

    assert justified(main, 1) == names(project["dependencies"])
    extras = {name: held for name, held in project["optional-dependencies"].items() if name != "dev"}
    assert justified(optional, 1) == set(extras)
    assert justified(optional, 2) == set().union(*map(names, extras.values()))


def test_the_rooms_stand_in_the_architecture_in_the_order_in_which_they_may_import() -> None:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = [layer.split(" | ") for layer in contracts[0]["layers"]]
    page = (
        (PROJECT / "docs" / "architecture.md").read_text().partition("## The house")[2].partition("\n## ")[0]
    )
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    rooms = [room for row in rows for room in re.findall(r"`(\w+)(?:/|\.py)`", row)]
    assert sorted(rooms) == sorted(room for floor in floors for room in floor)
    floor_of = {room: number for number, floor in enumerate(floors) for room in floor}
    assert rooms == sorted(rooms, key=floor_of.__getitem__)


def test_every_module_opens_with_a_sentence_on_what_it_is_for() -> None:
    for file in (PROJECT / "bg_pipelines").rglob("[!0-9]*.py"):
        said = ast.get_docstring(ast.parse(file.read_text())) or ""
        assert re.search(r"[.?:]$", said.partition("\n\n")[0]), f"{file} does not say what it is for"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_or_a_function_that_a_page_names_is_there(page: Path) -> None:
    files = {file.relative_to(PROJECT).as_posix() for file in PROJECT.glob("b*/**/*.py")}
    text = page.read_text()
    for name in re.findall(r"`([\w/]+\.py)`", text):
        made_by_the_reader = name == "bg_pipelines/platforms/corner.py"
        assert made_by_the_reader or any(f"/{file}".endswith(f"/{name}") for file in files), name
    rooms = "|".join(file.name for file in (PROJECT / "bg_pipelines").iterdir() if file.is_dir())
    for module, name in re.findall(rf"`(?:bg_pipelines\.)?((?:{rooms})\.\w+)\.(\w+)`", text):
        file = f"bg_pipelines/{module.replace('.', '/')}.py"
        assert file in files, module
        assert re.search(rf"\b{name}\b", (PROJECT / file).read_text()), f"{module}.{name}"


@pytest.mark.parametrize("page", GENERATED)
def test_a_reference_is_what_the_program_says_of_itself(page: str) -> None:
    assert (PROJECT / "docs" / page).read_text() == GENERATED[page](), (
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


def test_every_setting_says_what_it_means_and_stands_in_the_example() -> None:
    example = (PROJECT / ".env.example").read_text()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"#BG_{name.upper()}=" in example


def test_every_error_type_stands_in_the_page_for_those_on_call() -> None:
    page = (PROJECT / "docs" / "on-call.md").read_text()
    assert {t.value for t in ErrorType} - set(re.findall(r"`(\w+)`", page)) == set()


if __name__ == "__main__":
    for page, made in GENERATED.items():
        (PROJECT / "docs" / page).write_text(made())
    for page, name in TABLES:
        (PROJECT / "docs" / page).write_text(with_table(page, name))
