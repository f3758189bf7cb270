"""Clean Active Carts: carts that are abandoned, expired or left behind, what they hold back, and sessions.

    dagster job execute -m bg_pipelines.definitions -j clean_active_carts

What an interruption costs: nothing; the next run continues at the block reached. docs/cleaning.md says what is deleted
and when.
"""

import dagster as dg

from bg_pipelines.cleaning import carts
from bg_pipelines.cleaning.carts import TABLES, CartKeep
from bg_pipelines.cleaning.jobs import cart_tasks, preview_carts
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.orchestration.cleaning_job import Work, cleaning_job

KEEP = CartKeep()


def _work(instance: dg.DagsterInstance, database: Database, cipher: Cipher) -> Work:  # noqa: ARG001
    def kept_for_money() -> dict[str, dg.MetadataValue]:
        with database.transaction() as connection:
            number, oldest = carts.with_money(connection, KEEP)
        if not number:
            return {}
        rows = [dg.TableRecord({**cart._asdict(), "total": str(cart.total)}) for cart in oldest]
        return {
            "old_carts_with_money": dg.MetadataValue.int(number),
            "oldest_carts_with_money": dg.MetadataValue.table(rows),
        }

    return Work(
        cart_tasks(KEEP, cipher),
        lambda names: preview_carts(database, KEEP, cipher, names or TABLES),
        kept_for_money,
    )


clean_active_carts, schedules = cleaning_job(
    "clean_active_carts",
    op="clean_carts",
    description="Abandoned and expired carts, with what they hold back, and sessions.",
    task_names=lambda: TABLES,
    work=_work,
)
