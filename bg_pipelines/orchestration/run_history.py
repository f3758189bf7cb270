"""Dagster's own history: old runs and their events are pruned through its storage, a few at a time, with the UI in use.

Never a run that is not finished; failures are kept longer; of a run that goes, the events of assets stay for a while, so
that the UI goes on drawing them, and so do those of no run, such as evaluations of checks. Where Dagster prunes by itself (`retention` in dagster.yaml), this does nothing: ticks
are such a case.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

RUNS_AT_ONCE = 50
_KEPT_TYPES = tuple(sorted(kind.value for kind in {*ASSET_EVENTS, *ASSET_CHECK_EVENTS}))


class HistoryKeep(NamedTuple):
    """How long runs are kept after they ended, and the events of assets."""

    succeeded: timedelta = timedelta(days=14)
    failed: timedelta = timedelta(days=60)
    assets: timedelta = timedelta(days=180)


class Pruned(NamedTuple):
    figures: Counter[str]
    batches: int
    why: str | None


def prune(
    instance: dg.DagsterInstance,
    keep: HistoryKeep | None = None,
    *,
    stop: Callable[[], str | None] = lambda: None,
    rest: float = 1.0,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], object] = time.sleep,
) -> Pruned:
    """Prune what is older than `keep`, until nothing is left or `stop` says why to end.

    After each batch it leaves the storage to others for `rest` times as long as the batch took.
    """
    keep = keep or HistoryKeep()
    figures: Counter[str] = Counter()
    batches = 0
    if prunes_itself(instance):
        return Pruned(figures, batches, None)
    works = (
        _old_runs(instance, keep, now()),
        _old_asset_events(instance, keep, now()),
        _old_evaluations(instance, keep, now()),
    )
    for work in works:
        for batch in work:
            if (why := stop()) is not None:
                return Pruned(figures, batches, why)
            began = time.monotonic()
            figures.update(batch())
            batches += 1
            sleep((time.monotonic() - began) * rest)
    return Pruned(+figures, batches, None)


def prunes_itself(instance: dg.DagsterInstance) -> bool:
    """Whether this Dagster has been told to prune runs or their events, as later ones can."""
    retention = instance.get_settings("retention") or {}
    return bool(set(retention) - {"schedule", "sensor", "auto_materialize"})


def vacuum(instance: dg.DagsterInstance) -> int:
    """Give the space of pruned events back to new ones; returns the bytes that runs and events take."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as connection:
        engine = connection.engine
    tables = ("event_logs", "runs", "run_tags", "asset_event_tags")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in tables:
            connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
        return int(
            connection.execute(
                sa.text("SELECT sum(pg_total_relation_size(to_regclass(name))) FROM unnest(:names) name"),
                {"names": list(tables)},
            ).scalar_one()
        )


Batch = Callable[[], Counter[str]]


def _old_runs(instance: dg.DagsterInstance, keep: HistoryKeep, now: datetime) -> Iterator[Batch]:
    ended = (
        (keep.succeeded, [dg.DagsterRunStatus.SUCCESS]),
        (keep.failed, [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]),
    )
    for span, statuses in ended:
        old = dg.RunsFilter(statuses=statuses, updated_before=now - span)
        while runs := instance.get_run_ids(old, limit=RUNS_AT_ONCE):
            yield lambda runs=runs: _forget(instance, runs)  # type: ignore[misc]


def _forget(instance: dg.DagsterInstance, runs: Sequence[str]) -> Counter[str]:
    """These runs go, last of all they themselves: one that is interrupted is found again."""
    figures: Counter[str] = Counter()
    figures["dagster_events.rows"] = _forget_events(instance, runs)
    for run_id in runs:
        with suppress(Exception):  # a log that cannot be deleted keeps no run
            instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.run_storage.delete_run(run_id)
        figures["dagster_runs.rows"] += 1
    return figures


def _forget_events(instance: dg.DagsterInstance, runs: Sequence[str]) -> int:
    """The runs' events but those of assets: Dagster's own `delete_events` knows no difference."""
    events = SqlEventLogStorageTable
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    # An event without a type is a line of the log.
    others = sa.or_(
        events.c.dagster_event_type.is_(None),
        events.c.dagster_event_type.not_in(_KEPT_TYPES),
        events.c.asset_key.is_(None),
    )
    with storage.index_connection() as connection:
        return int(
            connection.execute(events.delete().where(sa.and_(events.c.run_id.in_(runs), others))).rowcount
        )


def _old_asset_events(instance: dg.DagsterInstance, keep: HistoryKeep, now: datetime) -> Iterator[Batch]:
    """Events of runs that are gone and of no run, the oldest first; a run's go together, through Dagster's own interface."""
    events = SqlEventLogStorageTable
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    before = (now - keep.assets).replace(tzinfo=None)
    after = 0
    while True:
        with storage.index_connection() as connection:
            found = connection.execute(
                sa.select(events.c.id, events.c.run_id, events.c.timestamp)
                .where(events.c.id > after)
                .order_by(events.c.id)
                .limit(1_000)
            ).fetchall()
        old = [row for row in found if row.timestamp < before]
        if not old:
            return
        after = old[-1].id
        # All that are of no run have the same id: that would take the newest as well.
        if runless := [row.id for row in old if row.run_id == RUNLESS_RUN_ID]:
            yield lambda ids=runless: _forget_runless(storage, ids)  # type: ignore[misc]
        if runs := {row.run_id for row in old} - {RUNLESS_RUN_ID}:
            kept = {run.run_id for run in instance.get_runs(dg.RunsFilter(run_ids=list(runs)))}
            yield lambda gone=runs - kept: _forget_assets(storage, gone)  # type: ignore[misc]


def _forget_runless(storage: SqlEventLogStorage, ids: Sequence[int]) -> Counter[str]:
    with storage.index_connection() as connection:
        connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(ids)))
        gone = connection.execute(
            SqlEventLogStorageTable.delete().where(SqlEventLogStorageTable.c.id.in_(ids))
        )
    return Counter({"dagster_events.rows": int(gone.rowcount)})


def _old_evaluations(instance: dg.DagsterInstance, keep: HistoryKeep, now: datetime) -> Iterator[Batch]:
    """What checks found: Dagster keeps a row of each beside its event."""
    table = AssetCheckExecutionsTable
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    old = table.c.create_timestamp < (now - keep.assets).replace(tzinfo=None)
    while True:
        with storage.index_connection() as connection:
            found = connection.execute(sa.select(table.c.id).where(old).order_by(table.c.id).limit(1_000))
            ids = [row.id for row in found]
        if not ids:
            return

        def forget(ids: Sequence[int] = ids) -> Counter[str]:
            with storage.index_connection() as connection:
                gone = connection.execute(table.delete().where(table.c.id.in_(ids)))
            return Counter({"dagster_checks.rows": int(gone.rowcount)})

        yield forget


def _forget_assets(storage: SqlEventLogStorage, runs: Iterable[str]) -> Counter[str]:
    figures: Counter[str] = Counter()
    for run_id in runs:
        storage.delete_events(run_id)
        figures["dagster_asset_runs.rows"] += 1
    return figures
