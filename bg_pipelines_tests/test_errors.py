"""The one error: its signature, its kinds, and that it survives the way from process to process."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipelines import errors
from bg_pipelines.errors import DEFAULTS, ErrorType, IntegrationError, Severity

ERRORS = st.builds(
    IntegrationError,
    st.text(),
    error_type=st.sampled_from(ErrorType),
    severity=st.sampled_from(Severity),
    recoverable=st.booleans(),
    source=st.text(),
    details=st.dictionaries(st.text(), st.none() | st.integers() | st.text()),
)


def test_an_error_says_no_more_than_it_is_told() -> None:
    error = IntegrationError("the shop is closed")
    assert str(error) == error.message == "the shop is closed"
    assert error.as_dict() == {
        "error_type": "unknown",
        "severity": "medium",
        "recoverable": True,
        "source": "integration",
        "message": "the shop is closed",
        "details": {},
    }


def test_everything_but_the_message_is_named() -> None:
    parameters = inspect.signature(IntegrationError).parameters
    assert [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == [
        "error_type",
        "severity",
        "recoverable",
        "source",
        "details",
    ]


@pytest.mark.parametrize("wrong", [{"error_type": "no_such"}, {"severity": "no_such"}, {"error_type": ""}])
def test_an_error_type_or_severity_that_does_not_exist_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        IntegrationError("x", **wrong)


@given(error=ERRORS)
def test_pickling_and_copying_keep_everything(error: IntegrationError) -> None:
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is IntegrationError
        assert same.as_dict() == error.as_dict()
        assert same.args == error.args


@given(error=ERRORS)
def test_an_error_is_kept_as_json_and_rebuilt_from_it(error: IntegrationError) -> None:
    kept = json.loads(json.dumps(error.as_dict()))
    assert IntegrationError(kept.pop("message"), **kept).as_dict() == error.as_dict()


def test_details_are_a_copy() -> None:
    details = {"status": 500}
    error = IntegrationError("x", details=details)
    details["status"] = 502
    assert error.details == {"status": 500}


@pytest.mark.parametrize("error_type", ErrorType)
def test_every_error_type_has_a_kind_that_its_errors_take(error_type: ErrorType) -> None:
    error = IntegrationError.of(error_type, "x", source="shopify", details={"status": 1})
    assert (error.error_type, error.severity, error.recoverable) == (error_type, *DEFAULTS[error_type])
    assert (error.source, error.details) == ("shopify", {"status": 1})


def test_the_tree_in_the_docstring_is_the_error_types() -> None:
    assert errors.__doc__ is not None
    assert re.findall(r"\+-- (\w+)", errors.__doc__) == [error_type.value for error_type in ErrorType]


def test_the_tree_puts_under_requires_attention_what_is_not_recoverable() -> None:
    assert errors.__doc__ is not None
    permanent = errors.__doc__.split("requires attention")[1]
    named = set(re.findall(r"\+-- (\w+)", permanent)) - {"unknown"}
    assert named == {error_type.value for error_type, kind in DEFAULTS.items() if not kind.recoverable}
