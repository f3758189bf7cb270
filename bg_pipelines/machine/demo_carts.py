"""What the demo cleans: carts, sessions and history of long ago, made for it."""

from __future__ import annotations

from collections.abc import Sequence

from bg_pipelines.database.engine import Database

# Of each ten carts three were left today, four have expired, two are customers' and kept, one is paid and never deleted.
_MADE = """
    INSERT INTO carts (store_id, external_id, source_updated_at, source_created_at, customer_external_id, payment_state, currency,
        total) SELECT s.id, 'demo cart ' || n, seen_at, seen_at, CASE WHEN n % 10 IN (7, 8) THEN 'demo' END,
        CASE n % 10 WHEN 9 THEN 'paid' ELSE 'none' END, 'EUR', n
        FROM stores s, generate_series(1, 500) n, LATERAL (SELECT now() - CASE WHEN n % 10 < 3 THEN interval '5 hours'
            ELSE interval '40 days' END AS seen_at) made WHERE s.id = (SELECT min(id) FROM stores)
    ON CONFLICT DO NOTHING;
    INSERT INTO cart_items (store_id, external_id, source_updated_at, cart_external_id, title, quantity)
        SELECT store_id, external_id || '/' || k, source_updated_at, external_id, 'a thing', 1
        FROM carts, generate_series(1, 2) k WHERE external_id LIKE 'demo cart %' ON CONFLICT DO NOTHING;
    INSERT INTO inventory_reservations (store_id, cart_external_id, inventory_item_external_id, location_external_id, quantity)
        SELECT store_id, external_id, 'demo item', 'demo location', 1 FROM carts WHERE external_id LIKE 'demo cart %';
    INSERT INTO sessions (id, store_id, expires_at) SELECT 'demo ' || n, 1, now() - interval '1 hour'
        FROM generate_series(1, 300) n ON CONFLICT DO NOTHING;
    INSERT INTO cart_events (store_id, cart_external_id, kind, happened_at)
        SELECT 1, 'demo ' || n, 'cart.abandoned', now() - interval '100 days' FROM generate_series(1, 400) n"""


def make_old_carts(database: Database) -> None:
    with database.transaction() as connection:
        for statement in _MADE.split(";"):
            connection.execute(statement)


def freed(database: Database, run_ids: Sequence[str]) -> list[str]:
    """A line for each job: what these runs freed."""
    lines = []
    with database.transaction() as connection:
        for run_id in run_ids:
            figures = connection.execute(
                "SELECT job, name, sum(number::bigint) FROM cleaning_results, jsonb_each_text(figures) f (name, number) "
                "WHERE run_id = %s AND name LIKE '%%.rows' OR run_id = %s AND name = 'carts.abandoned' GROUP BY 1, 2 ORDER BY 2",
                (run_id, run_id),
            ).fetchall()
            if figures:
                counts = ", ".join(f"{number:,} {name.removesuffix('.rows')}" for _, name, number in figures)
                lines.append(
                    f"{figures[0][0]} freed: {counts.replace('carts.abandoned', 'carts found abandoned')}"
                )
    return lines
