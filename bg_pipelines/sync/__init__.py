"""Syncing stores: claim what is due, work on stores side by side, settle each by itself.

    summary = SyncRun(database, cipher, request, run_id="…", connect=connect, log=print).run()

A `SyncRun` claims and hands out (run.py); a `StoreSync` works on one store's claimed resources (store.py); a
`ResourceSync` reads one resource's pages into its table (resource.py). Nothing here knows of Dagster.

What an interruption costs: a page's cursor is committed with its rows, so a run that is killed leaves each store
as far as its last commit, and the next run goes on there. Stopping (Ctrl-C, SIGTERM) gives unfinished stores
back at once; after a SIGKILL they come back when their lease ends.
"""

from bg_pipelines.sync.prefetch import LOAD_ROWS
from bg_pipelines.sync.run import SyncRun
from bg_pipelines.sync.summary import Failure, Summary, SyncRequest
from bg_pipelines.sync.visit import StoreSync

__all__ = ["LOAD_ROWS", "Failure", "StoreSync", "Summary", "SyncRequest", "SyncRun"]
