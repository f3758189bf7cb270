"""Every request that is made of Twilio, against Twilio's own description of its API, made stricter: a field that it does not
know is a fault too, where Twilio would ignore it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging.twilio import TextMessages
from bg_pipelines.platforms import http
from bg_pipelines_tests.prism import serving, vendor_description

ACCOUNT, SERVICE = f"AC{'a' * 32}", f"MG{'a' * 32}"
TO, FROM = "+12125550123", "+12125550100"
OPERATIONS = {"CreateMessage": "201", "ListMessage": "200", "FetchAccount": "200"}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    """The operations that are used; their answers are the vendor's samples."""
    whole = vendor_description("twilio_api_v2010.json")
    paths: dict[str, Any] = {}
    for path, methods in whole["paths"].items():
        for method, content in methods.items():
            status = OPERATIONS.get(content.get("operationId", "")) if isinstance(content, dict) else None
            if status is None:
                continue
            for body in content.get("requestBody", {}).get("content", {}).values():
                body["schema"]["additionalProperties"] = False
            answer = content["responses"][status]["content"]["application/json"]
            sample = next(iter(answer["examples"].values()))["value"]
            # Of lists the vendor's sample says that there is another page, for ever.
            sample |= {"next_page_uri": None} if "next_page_uri" in sample else {}
            json = {"schema": {"type": "object"}, "example": sample}
            content["responses"] = {status: {"description": "", "content": {"application/json": json}}}
            paths.setdefault(path, {})[method] = content
    enums = {
        name: of for name, of in whole["components"]["schemas"].items() if name.startswith("message_enum_")
    }
    components = {"schemas": enums, "securitySchemes": whole["components"]["securitySchemes"]}
    return {**whole, "paths": paths, "components": components}


@pytest.fixture(scope="module")
def prism(
    description: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, session_folder: Path
) -> Iterator[str]:
    with serving(description, tmp_path_factory.mktemp("prism"), session_folder) as url:
        yield url


class Noted(TextMessages):
    """Keeps what was asked and answered."""

    def __init__(self, url: str, **sender: str) -> None:
        super().__init__(ACCOUNT, "b" * 32, api_url=url, **sender)
        self.answers: list[tuple[str, str, http.Answer]] = []
        request = self._http.transport.request

        def noted(method: str, url: str, **given: Any) -> http.Answer:
            answer = request(method, url, **given)
            self.answers.append((method, url, answer))
            return answer

        self._http.transport.request = noted  # type: ignore[method-assign]


@pytest.mark.timeout(400)  # npm may have to fetch Prism first
def test_every_request_is_as_twilio_describes_it(prism: str, description: dict[str, Any]) -> None:
    asked: list[tuple[str, str, http.Answer]] = []
    for sender in ({"sender": FROM}, {"messaging_service_sid": SERVICE}):
        client = Noted(prism, **sender)
        callback = "https://hooks.example.com/webhooks/twilio/status"
        assert client.send(
            TO, "Harbor: “Linen Shirt” & more 🎉", status_callback=callback, validity_seconds=5
        )
        assert client.send(TO, "short")
        assert client.look_up(TO, "Harbor", "3f9a2c71b0", datetime.now(UTC)) is None
        client.check()
        asked += client.answers
        client.close()
    faults = [
        (method, url, answer.content[:500])
        for method, url, answer in asked
        if answer.status not in (200, 201) or "sl-violations" in answer.headers
    ]
    assert faults == []
    assert len(description["paths"]) == 2
    assert {(method, urlsplit(url).path.rpartition("/")[2]) for method, url, _ in asked} == {
        ("POST", "Messages.json"),
        ("GET", "Messages.json"),
        ("GET", f"{ACCOUNT}.json"),
    }
    # Prism looks away from what it does not know in a query.
    known = {
        parameter["name"]
        for methods in description["paths"].values()
        for content in methods.values()
        for parameter in content["parameters"]
    }
    assert {name for _, url, _ in asked for name, _ in parse_qsl(urlsplit(url).query)} <= known


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "wrong", [{"Colour": "red"}, {"ValidityPeriod": "soon"}, {"StatusCallback": "nowhere"}]
)
def test_prism_finds_what_is_wrong(prism: str, wrong: dict[str, str]) -> None:
    client = Noted(prism, sender=FROM)
    with pytest.raises(IntegrationError):
        client._http.request(
            "POST",
            f"{prism}/2010-04-01/Accounts/{ACCOUNT}/Messages.json",
            data={"To": TO, "From": FROM, "Body": "x", **wrong},
            auth=(ACCOUNT, "b" * 32),
        )
    [(_, _, answer)] = client.answers
    assert answer.status == 422
