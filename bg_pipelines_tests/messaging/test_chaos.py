"""Chaos: answers lost, workers killed, rates refused; at the end Twilio has each message once, or it says why not.

`BG_TEST_FULL=1 pytest -s bg_pipelines_tests/messaging/test_chaos.py` sends 1,000 messages; the suite sends fewer.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.sandbox import Fault, Sandbox, edit
from bg_pipelines_tests.messaging.conftest import SHOP
from bg_pipelines_tests.messaging.daytime import daytime_numbers
from bg_pipelines_tests.support import PROJECT, query

MESSAGES, KILLS = (1_000, 60) if os.environ.get("BG_TEST_FULL") == "1" else (100, 6)
SEED = 7
REFUSED = "too_many_requests"
LOST = ("apply_then_cut", "half_json", "cut", "server_error", "html", "bad_gateway")


@pytest.mark.timeout(120 + 4 * KILLS)
def test_each_message_is_at_twilio_once_or_says_why_not(database_url: str, sandbox: Sandbox) -> None:
    database = Database(database_url)
    query(database, SHOP)
    numbers = daytime_numbers(MESSAGES)
    query(
        database,
        "INSERT INTO text_messages (idempotency_key, kind, template, store_id, phone, product_external_id, requested_by) "
        "SELECT n, 'product_share', 'product_share', 1, n, 'p1', 'test' FROM unnest(%s::text[]) n",
        numbers,
    )
    opted_out = set(numbers[::50])
    query(database, "INSERT INTO sms_opt_outs (phone) SELECT unnest(%s::text[])", list(opted_out))
    account, rng = sandbox.world.twilio, random.Random(SEED)
    edit(account, "set_rate", per_second=120)
    edit(account, "set_invalid", numbers=numbers[1::50], code=21614)
    edit(account, "set_invalid", numbers=numbers[2::50], code=21408)
    account.faults += [
        Fault(rng.choice(LOST), times=1, after=rng.randrange(MESSAGES), operation="CreateMessage")
        for _ in range(MESSAGES // 10)
    ]
    account.faults += [
        Fault(REFUSED, times=1, after=rng.randrange(MESSAGES // 2), operation="CreateMessage")
        for _ in range(10)
    ]
    account.faults += [
        Fault("server_error", times=1, after=rng.randrange(20), operation="ListMessage") for _ in range(3)
    ]
    command = [sys.executable, "-m", "bg_pipelines_tests.messaging.killed_senders", database_url, sandbox.url]
    command += [account.account_sid, account.auth_token, account.numbers[0], str(SEED), str(KILLS)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= KILLS // 3, done.stderr
    rows = query(database, "SELECT * FROM text_messages")
    at_twilio = Counter(message.to for message in account.messages)
    assert max(at_twilio.values()) == 1
    for row in rows:
        match row["status"]:
            case "queued":
                assert at_twilio[row["phone"]] == 1
            case "pending":
                assert row["incident_id"], row["last_error"]
                assert at_twilio[row["phone"]] == 0
            case _:
                assert row["reason"]
                assert at_twilio[row["phone"]] == 0
    outcomes = Counter(row["status"] for row in rows)
    part = len(numbers[::50])
    assert outcomes == {"queued": MESSAGES - 3 * part, "refused": part, "failed": part, "pending": part}
    assert not opted_out & set(at_twilio)
    refused = Counter(request.status for request in account.requests)
    assert refused[429] > 0, "the rate was refused in between"
    print(
        f"\n{MESSAGES} messages, {told['runs']} runs, {told['kills']} killed: {dict(outcomes)}; answers {dict(refused)}"
    )
    database.close()
