"""Whatever stands in a field of what Twilio tells, or in a file of templates or of rules: an outcome, or one clear sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.cleaning.retention import find_faults, load_rules
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.messaging import answers
from bg_pipelines.messaging.answers import AnswerRules, Outcome
from bg_pipelines.messaging.templates import load_templates
from bg_pipelines_tests.messaging.conftest import ANN, Outbox
from bg_pipelines_tests.nasty import ALL


@contextmanager
def told() -> Iterator[None]:
    """It works, or the fault is one of the configuration."""
    try:
        yield
    except IntegrationError as error:
        if error.error_type is not ErrorType.CONFIGURATION:
            raise


RULE = {"table": '"cart_events"', "age": '"happened_at"', "keep": '"90 days"'}
TEXTS = {name: value for name, value in ALL.items() if isinstance(value, str)}


@pytest.mark.parametrize("kind", ["inbound", "status"])
def test_whatever_a_field_holds_twilio_s_word_has_an_outcome(outbox: Outbox, kind: str) -> None:
    id_ = outbox.put()
    outbox.send()
    plain = {
        "MessageSid": outbox.row(id_)["sid"],
        "From": ANN,
        "To": ANN,
        "Body": "STOP",
        "OptOutType": "STOP",
        "MessageStatus": "sent",
        "ErrorCode": "30003",
    }
    for field in plain:
        for value in TEXTS.values():
            with outbox.database.transaction() as connection:
                assert answers.handle(connection, kind, {**plain, field: value}, AnswerRules()) in Outcome
                connection.rollback()


def as_toml(value: Any) -> str:
    """As JSON has it: what TOML does not know is a fault of the file, too."""
    return json.dumps(value) if not isinstance(value, int) or value.bit_length() < 10_000 else "9" * 5_000


FILES: dict[str, Callable[[str], str]] = {
    **{
        f"rule.{field}": lambda value, field=field: (
            "[[rule]]\n"  # type: ignore[misc]
            + "\n".join(f"{name} = {text}" for name, text in {**RULE, field: value}.items())
        )
        for field in (
            "table",
            "age",
            "keep",
            "condition",
            "hold",
            "archive",
            "batch",
            "partitions",
            "name",
            "none",
        )
    },
    "keep": lambda value: f"keep = {value}",
    "keep.alerts": lambda value: f"[keep]\nwebhook_events = {value}",
    "rule": lambda value: f"rule = {value}",
}


@pytest.mark.parametrize("where", FILES)
def test_whatever_a_file_of_rules_holds_what_is_wrong_is_said(
    outbox: Outbox, tmp_path: Path, where: str
) -> None:
    file = tmp_path / "rules.toml"
    with outbox.database.transaction() as connection:
        for value in ALL.values():
            file.write_text(FILES[where](as_toml(value)), errors="surrogatepass")
            with told():
                find_faults(connection, load_rules(file))


def test_whatever_a_template_holds_what_is_wrong_is_said(tmp_path: Path) -> None:
    for number, value in enumerate(ALL.values()):
        file = tmp_path / f"{number}.toml"
        file.write_text(f"product_share = {as_toml(value)}", errors="surrogatepass")
        with told():
            load_templates(file)
