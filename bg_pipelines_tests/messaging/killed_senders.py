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
from collections.abc import Callable
from datetime import timedelta

# phonenumbers and twilio once for all runs: each would else spend its first moments on them.
import phonenumbers.timezone  # noqa: F401
import psycopg
import twilio.rest  # noqa: F401

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
PROMPT = {"delay_seconds": 0.2, "cap_seconds": 0.5}
POLICIES = Policies(
    dict.fromkeys(("timeout", "connection", "server_error", "malformed_response", "throttled"), PROMPT)
)


def send(url: str, twilio: list[str], number: int) -> None:
    database = Database(url)
    api_url, account, token, sender = twilio
    client = TextMessages(account, token, sender=sender, api_url=api_url, timeouts=Timeouts(0.5, 0.5, 0.5))
    Sending(
        database,
        client,
        Rules(countries=COUNTRIES, home="", daily_segments=10_000),
        Pace(10_000, first_backoff_seconds=0.05),
        run_id=f"chaos-{number}",
        log=lambda _: None,
        policies=POLICIES,
        unclear_wait=timedelta(seconds=1.2),
        call_within_seconds=0.5,
        lease=timedelta(seconds=1),
        batch_size=8,  # few are held by whoever is killed: the next run is one that works, too
    ).run()


def run(
    url: str, twilio: list[str], number: int, begun: Callable[[], int], kill_after: tuple[int, float] | None
) -> bool:
    """One run in a forked process, which is killed so many seconds after it has begun so many calls; returns whether."""
    before = begun()
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
    killed = False
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if kill_after is not None and not killed and begun() - before >= kill_after[0]:
            time.sleep(kill_after[1])
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.005)
    os.waitpid(child, 0)
    return killed


def main(url: str, *twilio: str) -> None:
    *of_account, seed, most = twilio
    rng = random.Random(int(seed))
    runs = kills = 0
    deadline = time.monotonic() + LONGEST_SECONDS + 2 * int(most)
    # Whoever is forked inherits the connection, and neither uses nor closes it.
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:

        def count(what: str) -> int:
            row = connection.execute(f"SELECT {what} FROM text_messages").fetchone()
            return int(row[0]) if row else 0

        while time.monotonic() < deadline:
            if not count("count(*) FILTER (WHERE status = 'pending' AND next_due_at IS NOT NULL)"):
                break
            runs += 1
            kill_after = (rng.randrange(16), rng.uniform(0, 0.02)) if kills < int(most) else None
            kills += run(url, of_account, runs, lambda: count("coalesce(sum(calls), 0)"), kill_after)
            time.sleep(0.05)
    sys.stdout.write(json.dumps({"runs": runs, "kills": kills}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
