"""The tasks of the two cleaning jobs, and what they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from bg_pipelines.cleaning import advice, carts, files, partitions, repack, retention, upkeep
from bg_pipelines.cleaning.batches import Outcome
from bg_pipelines.cleaning.carts import CartKeep
from bg_pipelines.cleaning.preview import Preview, in_words, preview
from bg_pipelines.cleaning.retention import Rule
from bg_pipelines.cleaning.run import TaskRun
from bg_pipelines.cleaning.tasks import Task
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher

_CARTS_EVERY = {
    "carts": timedelta(minutes=15),
    "inventory_reservations": timedelta(minutes=15),
    "sessions": timedelta(hours=1),
    "cart_items": timedelta(days=1),
}


def cart_tasks(keep: CartKeep, cipher: Cipher) -> Sequence[Task]:
    """The sweeps of `clean_active_carts`, in their order."""

    def start(table: str) -> Task:
        def work(run: TaskRun) -> Outcome:
            with run.database.transaction() as connection:
                sweep = carts.sweep(connection, table, keep, cipher)
            return run.sweep(sweep)

        return Task(table, _CARTS_EVERY[table], work)

    return [start(table) for table in _CARTS_EVERY]


def preview_carts(database: Database, keep: CartKeep, cipher: Cipher, tables: Sequence[str]) -> list[Preview]:
    """The dry run of `clean_active_carts`."""
    with database.transaction() as connection:
        sweeps = [carts.sweep(connection, table, keep, cipher) for table in tables]
    return preview(database, sweeps)


HISTORY = "dagster_history"
LOG_FILES = "log_files"
_UPKEEP_EVERY = {
    "left_over_indexes": timedelta(days=1),
    "vacuum": timedelta(hours=1),
    "reindex": timedelta(days=1),
    "repack": timedelta(days=1),
    "advice": timedelta(days=1),
}
_HOURLY = timedelta(hours=1)


def database_task_names(rules: Sequence[Rule]) -> list[str]:
    """The tasks of `clean_database`, in their order."""
    return [*(rule.task for rule in rules), HISTORY, LOG_FILES, *_UPKEEP_EVERY]


def database_tasks(
    rules: Sequence[Rule],
    cipher: Cipher,
    *,
    home: Path,
    data: Path | None,
    history: Callable[[TaskRun], Outcome],
    may_repack: bool = False,
) -> list[Task]:
    """The tasks of `clean_database`. `data` is the server's folder where it is on this machine; `history` prunes Dagster's;
    `may_repack`: a person allows `REPACK`."""
    tasks = {
        **{rule.task: Task(rule.task, _HOURLY, _retain(rule, cipher)) for rule in rules},
        HISTORY: Task(HISTORY, _HOURLY, history),
        LOG_FILES: Task(LOG_FILES, _HOURLY, lambda run: run.finished(files.rotate(home))),
        **{
            name: Task(name, every, _keep_up(name, data, may_repack=may_repack))
            for name, every in _UPKEEP_EVERY.items()
        },
    }
    return [tasks[name] for name in database_task_names(rules)]


def preview_database(
    database: Database, rules: Sequence[Rule], cipher: Cipher, names: Sequence[str]
) -> list[Preview]:
    """The dry run of `clean_database`: of its retention rules."""
    chosen = [rule for rule in rules if not names or rule.task in names]
    with database.transaction() as connection:
        sweeps = [retention.sweep(connection, rule, cipher) for rule in chosen if not rule.partitions]
        whole = [
            in_words(rule.task, partitions.count(connection, rule.table, rule.keep))
            for rule in chosen
            if rule.partitions
        ]
    return preview(database, sweeps) + whole


def _retain(rule: Rule, cipher: Cipher) -> Callable[[TaskRun], Outcome]:
    def work(run: TaskRun) -> Outcome:
        if rule.partitions:
            upkeep = partitions.Upkeep(run.database, rule.task, rule.table, rule.partitions, rule.keep)
            why = upkeep.run(run.stop)
            return run.finished(upkeep.figures, why, set_aside=upkeep.set_aside)
        with run.database.transaction() as connection:
            sweep = retention.sweep(connection, rule, cipher)
        return run.sweep(sweep)

    return work


def _keep_up(name: str, data: Path | None, *, may_repack: bool) -> Callable[[TaskRun], Outcome]:
    def work(run: TaskRun) -> Outcome:
        if name == "advice":
            return _advise(run)
        if name == "vacuum":
            done = upkeep.vacuum(run.database, run.stop)
        elif name == "reindex":
            done = upkeep.reindex(run.database, run.stop, data=data)
        elif name == "repack":
            done, found = repack.repack(run.database, run.stop, allowed=may_repack, data=data)
            return run.finished(done.figures, done.why, advice=[one._asdict() for one in found])
        else:
            done = upkeep.remove_left_over(run.database)
        return run.finished(done.figures, done.why)

    return work


def _advise(run: TaskRun) -> Outcome:
    with run.database.transaction() as connection:
        found = advice.advise(connection)
        now = advice.sizes(connection)
        row = connection.execute(
            "SELECT figures FROM cleaning_results WHERE task = 'advice' "
            "AND finished_at < statement_timestamp() - interval '7 days' ORDER BY finished_at DESC LIMIT 1"
        ).fetchone()
    before = {name.removesuffix(".size"): size for name, size in (row[0] if row else {}).items()}
    found += advice.growth(before, now)
    figures = Counter({f"{table}.size": size for table, size in now.items()})
    return run.finished(figures, advice=[one._asdict() for one in found])
