"""Clean Database: history that is kept long enough, Dagster's and ours; logs; vacuum and indexes; advice.

    dagster job execute -m bg_pipelines.definitions -j clean_database

What an interruption costs: nothing; the next run continues. docs/cleaning.md has the rules, and how to add your own.
"""

import dagster as dg

from bg_pipelines.cleaning.batches import Outcome
from bg_pipelines.cleaning.jobs import database_task_names, database_tasks, preview_database
from bg_pipelines.cleaning.retention import Rule, load_rules
from bg_pipelines.cleaning.run import TaskRun
from bg_pipelines.database.embedded import EmbeddedServer
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.orchestration.cleaning_job import Work, cleaning_job
from bg_pipelines.settings import load_settings

_VACUUM_FROM = 1_000
"""So many events are gone before their tables are vacuumed at once, and not when PostgreSQL comes to it."""


def _rules() -> list[Rule]:
    return load_rules(load_settings().retention_file)


def _work(instance: dg.DagsterInstance, database: Database, cipher: Cipher) -> Work:
    # Here, for it loads what migrates Dagster's storage, which no other start has a use for.
    from bg_pipelines.orchestration import run_history

    settings = load_settings()
    rules = _rules()

    def prune_history(run: TaskRun) -> Outcome:
        pruned = run_history.prune(instance, stop=run.stop)
        if pruned.figures["dagster_events.rows"] >= _VACUUM_FROM:
            pruned.figures["dagster_history.size"] = run_history.vacuum(instance)
        return run.finished(pruned.figures, pruned.why, batches=pruned.batches)

    data = EmbeddedServer(settings.home).data if settings.embedded else None
    return Work(
        database_tasks(
            rules,
            cipher,
            home=settings.home,
            data=data,
            history=prune_history,
            may_repack=settings.repack,
        ),
        lambda names: preview_database(database, rules, cipher, names),
    )


clean_database, schedules = cleaning_job(
    "clean_database",
    op="clean_history",
    description="History kept long enough, logs, vacuum and indexes; advice.",
    task_names=lambda: database_task_names(_rules()),
    work=_work,
)
