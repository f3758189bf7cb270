"""A place to send notifications to."""

from __future__ import annotations

import time
from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import Fault, Sandbox
from bg_pipelines.sandbox.hooks import KINDS
from bg_pipelines_tests.sandbox.conftest import Client

NOTE = {"version": "1.0", "title": "Harbor Tools", "message": "its token is void", "type": "failure"}


def notify(sandbox: Sandbox, name: str = "ops", **options: Any) -> requests.Response:
    return requests.post(f"{sandbox.url}/hooks/{name}", timeout=5, **(options or {"json": NOTE}))


def test_what_is_posted_is_kept_until_it_is_emptied(sandbox: Sandbox, client: Client) -> None:
    assert client.admin("GET", "hooks/ops").json() == []
    assert notify(sandbox).status_code == 200
    notify(sandbox, data=b"plain", headers={"Content-Type": "text/plain", "User-Agent": "Apprise"})
    assert notify(sandbox, "other/").ok
    note, text = client.admin("GET", "hooks/ops").json()
    assert note["body"] == NOTE
    assert note["received_at"] == sandbox.world.clock.stamp()
    assert note["headers"]["content-type"] == "application/json"
    assert (text["body"], text["headers"]) == (
        "plain",
        {"content-type": "text/plain", "user-agent": "Apprise"},
    )
    assert sandbox.world.hooks["ops"].received[0].body == NOTE
    assert client.admin("GET", "hooks").json() == {"ops": 2, "other": 1}
    assert client.admin("DELETE", "hooks/ops").json() == []
    assert len(sandbox.world.hooks["ops"].received) == 0
    assert len(sandbox.world.hooks["other"].received) == 1


def test_only_a_post_to_a_name_is_taken(sandbox: Sandbox) -> None:
    assert requests.get(f"{sandbox.url}/hooks/ops", timeout=5).status_code == 405
    assert notify(sandbox, "").status_code == 404
    assert notify(sandbox, "a/b").status_code == 404


@pytest.mark.parametrize(
    ("kind", "status", "kept"),
    [
        ("server_error", 500, 0),
        ("too_many_requests", 429, 0),
        ("html", 200, 0),
        ("slow", 200, 1),
        ("cut", None, 0),
        ("apply_then_cut", None, 1),
    ],
)
def test_each_kind_of_fault_bites_its_hook_alone(
    sandbox: Sandbox, client: Client, kind: str, status: int | None, kept: int
) -> None:
    client.admin("POST", "hooks/ops/faults", {"kind": kind, "times": 1, "seconds": 0.2})
    assert notify(sandbox, "other").json() == {"received": True}
    start = time.monotonic()
    if status is None:
        with pytest.raises(requests.ConnectionError):
            notify(sandbox)
    else:
        answer = notify(sandbox)
        assert answer.status_code == status
        assert ("<html>" in answer.text) == (kind == "html")
        assert (answer.headers.get("Retry-After") == "0.2") == (kind == "too_many_requests")
    assert (time.monotonic() - start > 0.15) == (kind == "slow")
    hook = sandbox.world.hooks["ops"]
    assert (len(hook.received), hook.faults[0].applied) == (kept, 1)
    assert notify(sandbox).ok
    assert client.admin("GET", "hooks/ops/faults").json()[0]["kind"] == kind
    assert client.admin("DELETE", "hooks/ops/faults").json() == hook.faults == []


def test_a_kind_that_no_hook_knows_is_rejected(client: Client) -> None:
    answer = client.admin("POST", "hooks/ops/faults", {"kind": "throttled"})
    assert (answer.status_code, answer.json()["field"]) == (400, "kind")
    assert all(kind in answer.json()["error"] for kind in KINDS)


def test_faults_can_be_set_in_python_before_anything_came(sandbox: Sandbox) -> None:
    sandbox.world.hooks["new"].faults.append(Fault("server_error", after=1))
    assert [notify(sandbox, "new").status_code for _ in range(3)] == [200, 500, 500]
