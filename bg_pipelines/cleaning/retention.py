"""Retention: how long rows of history are kept, in one table of rules; users add rules in a TOML file (docs/cleaning.md).

A rule's rows are found by an index on its age column and deleted in order of age; what refuses to go is set aside.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from bg_pipelines.cleaning import partitions
from bg_pipelines.cleaning.relations import Connection, Keys, Span, find
from bg_pipelines.cleaning.spans import A_SPAN, read_span
from bg_pipelines.cleaning.sweeps import Child, Rows, RowSweep
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean
from bg_pipelines.work.queue import all_queues

_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")


@dataclass(frozen=True)
class Rule:
    """Rows of `table` whose `age` (a time, indexed) is more than `keep` ago go, if `condition` holds and `hold` does not.

    `condition` and `hold` are SQL on the row `t`. `archive`: how long deleted rows are kept archived. `batch`: the size of
    the first batch; those after it follow from the time it took. `partitions`: the table is partitioned by ranges of `age` of
    this width (`partitions.AHEAD`), and loses whole ones. `children` are rows that go with one of these.
    """

    table: str
    age: str
    keep: timedelta
    condition: str = "true"
    hold: str = "false"
    archive: timedelta | None = None
    batch: int = 500
    partitions: str = ""
    name: str = ""
    children: tuple[Child, ...] = ()

    @property
    def task(self) -> str:
        return self.name or self.table


def _deleted(table: str, **more: Any) -> Rule:
    """Rows of a synced table that their source has deleted."""
    return Rule(table, "deleted_at", timedelta(days=180), **more)


_HELD_BY_WORK = " OR ".join(
    f"EXISTS (SELECT FROM {queue.table} w WHERE w.incident_id = t.id)" for queue in all_queues()
)
_DAY = timedelta(days=1)

RULES: tuple[Rule, ...] = (
    Rule("sync_attempts", "started_at", 7 * _DAY, "t.status IN ('succeeded', 'released')"),
    Rule("sync_attempts", "started_at", 30 * _DAY, "t.status <> 'running'", name="failed_attempts"),
    Rule("sync_rollups", "hour", 90 * _DAY),
    Rule("figure_samples", "at", 2 * _DAY),
    Rule("activity", "at", 400 * _DAY, "t.via <> 'deploy'"),
    Rule("board_sessions", "expires_at", _DAY),
    Rule("board_login_failures", "failed_at", _DAY),
    Rule("job_runs", "started_at", 90 * _DAY, hold="t.finished_at IS NULL AND t.seen_at > statement_timestamp() - interval '1 day'"),
    Rule("audits", "audited_at", 90 * _DAY),
    # So long they can be replayed, and tell what was told.
    Rule("webhook_events", "received_at", 3 * _DAY, "t.status IN ('handled', 'passed_on', 'ignored')"),
    Rule(
        "webhook_events", "received_at", 30 * _DAY, "t.status = 'pending' AND t.next_due_at IS NULL", name="parked_events"
    ),
    Rule("webhook_events", "received_at", _DAY, "t.status = 'not_understood'", name="events_not_understood"),
    Rule("webhook_coverage", "hour", 30 * _DAY),
    Rule(
        "alerts", "created_at", 180 * _DAY,
        hold="EXISTS (SELECT FROM incidents i WHERE i.id = t.incident_id AND i.status = 'open') OR EXISTS "
        "(SELECT FROM alert_deliveries d WHERE d.alert_id = t.id AND d.status = 'pending')",
        children=(Child("alert_deliveries", ("alert_id",), ("id",)),),
    ),
    Rule(
        "incidents", "resolved_at", 180 * _DAY, "t.status = 'resolved'",
        hold=f"{_HELD_BY_WORK} OR EXISTS (SELECT FROM alerts a WHERE a.incident_id = t.id) "
        "OR EXISTS (SELECT FROM incidents i WHERE i.merged_into = t.id)",
    ),
    Rule(
        "rejected_rows", "last_seen_at", 60 * _DAY,
        hold="EXISTS (SELECT FROM stores s WHERE s.id = t.store_id AND s.paused_at IS NOT NULL AND s.deleted_at IS NULL)",
    ),
    Rule("customer_changes", "changed_at", 400 * _DAY, "t.status <> 'pending'"),
    Rule("inventory_corrections", "created_at", 400 * _DAY, "t.status <> 'pending'"),
    Rule("text_replies", "received_at", 400 * _DAY, "t.settled_at IS NOT NULL"),
    Rule(
        "text_messages", "created_at", 400 * _DAY, "t.status NOT IN ('pending', 'queued', 'sending')",
        hold="EXISTS (SELECT FROM text_replies r WHERE r.message_id = t.id)",
    ),
    Rule("text_subscriptions", "ended_at", 180 * _DAY),
    _deleted("locations"),
    _deleted("products"),
    _deleted("product_variants"),
    _deleted("inventory_levels"),
    _deleted("order_lines"),
    _deleted("refunds"),
    _deleted("orders"),
    _deleted("customers"),
    _deleted("webhook_subscriptions"),
    Rule("cart_events", "happened_at", 90 * _DAY),
    Rule("archived_rows", "expires_at", timedelta(0)),
    Rule("cleaning_results", "finished_at", 180 * _DAY),
)  # fmt: skip
"""By name. Not here: what is kept as proof (`data_requests`, `erased_rows`, `sms_consents`), and what people have decided."""


def load_rules(file: Path | None) -> list[Rule]:
    """Our rules with what the user's file changes, and the user's own. Raises IntegrationError (configuration)."""
    rules = {rule.task: rule for rule in RULES}
    if file is None:
        return list(rules.values())
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:  # also of numbers and nesting without end
        raise _wrong(file, [f"cannot be read: {error}"]) from None
    faults = [
        f"{word!r} is none of keep, rule{did_you_mean(word, ['keep', 'rule'])}"
        for word in sorted(content.keys() - {"keep", "rule"})
    ]
    keep = content.get("keep", {})
    for name, text in keep.items() if isinstance(keep, dict) else ():
        if name not in rules:
            faults.append(f"keep.{name}: no such rule{did_you_mean(name, rules)}")
        elif (span := read_span(text)) is None:
            faults.append(f"keep.{name}: {A_SPAN}")
        else:
            rules[name] = replace(rules[name], keep=span)
    own = content.get("rule", [])
    for number, given in enumerate(own if isinstance(own, list) else [own], start=1):
        rule = _own_rule(given, f"rule {number}", faults)
        if rule is not None and rule.task in rules:
            faults.append(f"rule {number}: there is a rule {rule.task!r} already; give this one a `name`")
        elif rule is not None:
            rules[rule.task] = rule
    if faults:
        raise _wrong(file, faults)
    return list(rules.values())


_FIELDS = ("table", "age", "keep", "condition", "hold", "archive", "batch", "partitions", "name")
_WIDTHS = tuple(partitions.AHEAD)


def _own_rule(given: Any, where: str, faults: list[str]) -> Rule | None:
    if not isinstance(given, Mapping):
        faults.append(f"{where}: must be a table [[rule]]")
        return None
    wrong = [
        f"{where}.{name}: no such field{did_you_mean(name, _FIELDS)}" for name in given if name not in _FIELDS
    ]
    values: dict[str, Any] = dict(given)
    wrong += [
        f"{where}.{name}: must be the name of a {what}"
        for name, what in (("table", "table"), ("age", "column"))
        if not isinstance(given.get(name), str) or not _NAME.fullmatch(given[name])
    ]
    wrong += [
        f"{where}.{name}: must be a text"
        for name in ("condition", "hold", "name")
        if name in given and (not isinstance(given[name], str) or not given[name].strip())
    ]
    for name in ("keep", "archive"):
        if name == "keep" or name in given:
            values[name] = read_span(given.get(name))
            if values[name] is None:
                wrong.append(f"{where}.{name}: {A_SPAN}")
    if "batch" in given and (type(given["batch"]) is not int or given["batch"] < 1):
        wrong.append(f"{where}.batch: must be a whole number of rows")
    if "partitions" in given:
        if given["partitions"] not in _WIDTHS:
            wrong.append(f"{where}.partitions: must be one of {', '.join(_WIDTHS)}")
        wrong += [
            f"{where}.{name}: whole partitions go, so leave it out, or leave out `partitions`"
            for name in ("condition", "hold", "archive", "batch")
            if name in given
        ]
    faults += wrong
    return None if wrong else Rule(**values)


def _wrong(file: Path, faults: Sequence[str]) -> IntegrationError:
    return IntegrationError.of(
        ErrorType.CONFIGURATION, f"retention rules in {file}: {'; '.join(faults)}", source="settings"
    )


def find_faults(connection: Connection, rules: Iterable[Rule]) -> list[str]:
    """What is wrong with these rules in this database: tables, columns, indexes, conditions; a sentence each."""
    faults = []
    for rule in rules:
        try:
            # A transaction of its own, so that what PostgreSQL refuses of one rule hides no other.
            with connection.transaction():
                faults += [f"retention rule {rule.task}: {fault}" for fault in _faults(connection, rule)]
        except IntegrationError as error:
            faults.append(f"retention rule {rule.task}: {error.message}")
        except psycopg.Error as error:
            said = (error.diag.message_primary or type(error).__name__).strip()
            faults.append(f"retention rule {rule.task}: PostgreSQL does not take it: {said}")
    return faults


_AGE_INDEXED = """
    SELECT format_type(a.atttypid, NULL) IN ('timestamp with time zone', 'timestamp without time zone', 'date'),
        EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum AND i.indisvalid)
            OR c.relkind = 'v',
        ARRAY(SELECT k.attname::text FROM pg_index i JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = ANY(i.indkey)
            WHERE i.indrelid = a.attrelid AND i.indisprimary)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.attrelid = %s AND a.attname = %s AND NOT a.attisdropped"""


def _faults(connection: Connection, rule: Rule) -> Iterable[str]:
    relation = find(connection, rule.table)
    row = connection.execute(_AGE_INDEXED, (relation.oid, rule.age)).fetchone()
    if row is None:
        yield f"{rule.table} has no column {rule.age}"
        return
    is_time, indexed, key = row
    if not is_time:
        yield f"{rule.table}.{rule.age} is no time"
        return
    if rule.partitions:
        yield from partitions.find_faults(connection, rule.table, rule.age)
        return
    if not indexed:
        yield f"no index begins with {rule.age}: CREATE INDEX CONCURRENTLY ON {rule.table} ({rule.age})"
    if not key:
        yield f"{rule.table} has no primary key"
    # Planned and not run: a condition that is no condition is refused here.
    rows = _rows(rule, tuple(key) or (rule.age,))
    connection.execute(
        f"EXPLAIN SELECT FROM {rule.table} t WHERE ({rows.condition}) IS NOT NULL",
        rows.parameters,
        prepare=False,
    )


def sweep(connection: Connection, rule: Rule, cipher: Cipher) -> RowSweep:
    """The sweep of a rule. Raises IntegrationError (configuration) where its table is not there."""
    relation = find(connection, rule.table)
    row = connection.execute(_AGE_INDEXED, (relation.oid, rule.age)).fetchone()
    if row is None or not row[2]:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"retention rule {rule.task}: {rule.table} has no column {rule.age}, or no primary key",
            source="settings",
        )
    among = Span(f"t.{rule.age} < statement_timestamp() - %(keep)s", {"keep": rule.keep})
    axis = Keys(relation, [rule.age], among)
    axis.first_size = rule.batch
    return RowSweep(_rows(rule, tuple(row[2])), relation, axis, cipher)


def _rows(rule: Rule, key: tuple[str, ...]) -> Rows:
    return Rows(
        task=rule.task,
        table=rule.table,
        key=key,
        condition=f"t.{rule.age} < statement_timestamp() - %(keep)s AND ({rule.condition}) AND NOT coalesce(({rule.hold}), true)",
        children=rule.children,
        archive=None if rule.archive is None else "%(archive)s",
        parameters={"keep": rule.keep, "archive": rule.archive},
    )
