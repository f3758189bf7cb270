"""Runs of sending as processes that are killed at random moments, one after the other, until nothing is left to send:
`python -m bg_pipelines_tests.messaging.killed_senders DATABASE_URL TWILIO_URL ACCOUNT TOKEN FROM SEED KILLS`.

It prints how many runs there were and how many were killed. The last ones are left alive.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from datetime import timedelta

from bg_pipelines.database.engine import Database
from bg_pipelines.messaging.checks import Rules
from bg_pipelines.messaging.pace import Pace
from bg_pipelines.messaging.sending import Sending
from bg_pipelines.messaging.twilio import TextMessages
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.retries import Policies
from bg_pipelines_tests.messaging.daytime import COUNTRIES

LONGEST_SECONDS = 60
"""And two more for each kill."""
PROMPT = {"delay_seconds": 0.5, "cap_seconds": 1}
POLICIES = Policies(
    dict.fromkeys(("timeout", "connection", "server_error", "malformed_response", "throttled"), PROMPT)
)


def send(url: str, twilio: list[str], number: int) -> None:
    database = Database(url)
    api_url, account, token, sender = twilio
    client = TextMessages(account, token, sender=sender, api_url=api_url, timeouts=Timeouts(1, 1, 1))
    Sending(
        database,
        client,
        Rules(countries=COUNTRIES, home="", daily_segments=10_000),
        Pace(10_000),
        run_id=f"chaos-{number}",
        log=lambda _: None,
        policies=POLICIES,
        unclear_wait=timedelta(seconds=3),
        call_within_seconds=1.0,
        lease=timedelta(seconds=2),
    ).run()


def run(url: str, twilio: list[str], number: int, kill_after: float | None) -> bool:
    """One run in a forked process; returns whether it was killed."""
    child = os.fork()
    if not child:
        status = 1
        try:
            send(url, twilio, number)
            status = 0
        except BaseException:  # noqa: BLE001 (of a forked process nothing may get out)
            traceback.print_exc()
        finally:
            os._exit(status)
    began, killed = time.monotonic(), False
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if kill_after is not None and not killed and time.monotonic() - began >= kill_after:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.005)
    os.waitpid(child, 0)
    return killed


def main(url: str, *twilio: str) -> None:
    *of_account, seed, most = twilio
    rng = random.Random(int(seed))
    database = Database(url)
    runs = kills = 0
    deadline = time.monotonic() + LONGEST_SECONDS + 2 * int(most)
    while time.monotonic() < deadline:
        with database.transaction() as connection:
            row = connection.execute(
                "SELECT count(*) FROM text_messages WHERE status = 'pending' AND next_due_at IS NOT NULL"
            ).fetchone()
        database.engine.dispose()  # no connection is shared with a forked process
        if not row or not row[0]:
            break
        runs += 1
        kills += run(url, of_account, runs, rng.uniform(0.05, 0.8) if kills < int(most) else None)
        time.sleep(0.05)
    sys.stdout.write(json.dumps({"runs": runs, "kills": kills}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
