"""Syncing stores: what is due is claimed, stores are worked on side by side, each unit is settled by itself.

    run            claims for its workers, and sums up what was done
    visit          the claimed units of one store, one after the other
    settling       how a unit ends: a closed set of outcomes
    units          what each unit does: store_profile, table_sync, stock_corrections, customer_edits, audit/
    table_sync     a pass over a table's pages: state, loader, completeness, deletions, proof
    context        what a unit may ask of the visit that carries it out

What an interruption costs: a page's cursor is committed with its rows, so a run that is killed leaves each store
as far as its last commit, and the next run goes on there. Stopping (Ctrl-C, SIGTERM) gives unfinished stores
back at once; after a SIGKILL they come back when their lease ends.
"""

from bg_pipelines.sync.run import SyncRun
from bg_pipelines.sync.summary import Failure, Limits, Summary, SyncRequest

__all__ = ["Failure", "Limits", "Summary", "SyncRequest", "SyncRun"]
