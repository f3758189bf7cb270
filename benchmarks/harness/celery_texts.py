"""What one writes first: a Celery task that sends a text message with the official client, and knows no outbox.

It checks nothing, records nothing before it sends, and sends twice when an answer is lost: it is what the transport alone
costs. `BROKER_URL` names its broker; TWILIO_URL, TWILIO_ACCOUNT, TWILIO_TOKEN, TWILIO_FROM its account.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from celery import Celery

app = Celery("texts", broker=os.environ.get("BROKER_URL", "redis://127.0.0.1:1/0"))
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=4,
    task_acks_late=False,
)


@lru_cache(maxsize=1)
def client() -> Any:
    from twilio.http.http_client import TwilioHttpClient
    from twilio.rest import Client

    account, token = os.environ["TWILIO_ACCOUNT"], os.environ["TWILIO_TOKEN"]
    made = Client(account, token, http_client=TwilioHttpClient(timeout=20))
    made.api.base_url = os.environ["TWILIO_URL"]
    return made


@app.task(name="send_text")
def send_text(to: str, body: str) -> None:
    client().messages.create(to=to, body=body, from_=os.environ["TWILIO_FROM"])
