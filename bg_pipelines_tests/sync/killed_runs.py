"""Runs of a sync as processes of their own, killed on request: `python -m bg_pipelines_tests.sync.killed_runs URL`.

Each line of its input asks for one run, as JSON: `store`, `units`, `kill_after` (seconds; null: never). A process is
forked for it, so that it begins at once; it is answered with how it ended. Only this parent kills, and only a process
that it has not yet waited for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from typing import Any

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.platforms.shopify.bulk import ExportLimits
from bg_pipelines.queues import Unit
from bg_pipelines.sync import Limits, SyncRequest, SyncRun
from bg_pipelines_tests.support import KEY, connect_by

LOAD_ROWS = 100
"""Few, so that there are many commits to be killed before, in and after."""


def sync(url: str, store: str, units: list[str]) -> None:
    database = Database(url)
    SyncRun(
        database,
        Cipher(KEY),
        SyncRequest(tuple(map(Unit, units)), stores=(store,), max_workers=1, backfill="bulk"),
        run_id=f"{store}-{os.getpid()}",
        connect=connect_by(shopify={"exports": ExportLimits(page_rows=40, looks_seconds=(0.05, 0.05))}),
        log=lambda _: None,
        lease=timedelta(seconds=30),
        limits=Limits(load_rows=LOAD_ROWS),
    ).run()


def run(url: str, store: str, units: list[str], kill_after: float | None) -> dict[str, Any]:
    began = time.monotonic()
    child = os.fork()
    if not child:
        status = 1
        try:
            sync(url, store, units)
            status = 0
        except BaseException:  # noqa: BLE001 (of a forked process nothing may get out)
            traceback.print_exc()
        finally:
            os._exit(status)
    killed = False
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if kill_after is not None and not killed and time.monotonic() - began >= kill_after:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.002)
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began}


def main(url: str) -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(url, **json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
