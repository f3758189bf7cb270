"""Syncing stores: due units are claimed, stores are processed in parallel, each unit is settled separately.

    run            claims for its workers, and sums up what was done
    visit          the claimed units of one store, one after the other
    settling       how a unit ends: a closed set of outcomes
    units          what each unit does: store_profile, table_sync, stock_corrections, customer_edits, audit/
    table_sync     a pass over a table's pages: state, loader, completeness, deletions, proof
    context        what a unit may ask of its visit

What an interruption costs: a page's cursor is committed with its rows, so after a crash the next run resumes each
store at its last commit. Stopping (Ctrl-C, SIGTERM) releases unfinished stores at once; after a SIGKILL their leases
expire.
"""

from bg_pipelines.sync.run import SyncRun
from bg_pipelines.sync.summary import Failure, Limits, Summary, SyncRequest

__all__ = ["Failure", "Limits", "Summary", "SyncRequest", "SyncRun"]
