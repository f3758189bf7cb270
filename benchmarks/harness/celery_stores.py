"""A Celery task for each store: its work is the product's own visit. `BROKER_URL` names its broker."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.harness.store import visit

app = Celery("stores", broker=os.environ.get("BROKER_URL", "redis://127.0.0.1:1/0"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="visit_store")
def visit_store(job: str, store: str) -> None:
    visit(os.environ["BG_DATABASE_URL"], job, store)
