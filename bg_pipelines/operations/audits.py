"""`bg-pipelines audit STORE`: one store compared with its platform now, and what its last full passes proved.

It is a run of the job `drift_audit` for this one store, in this process: it claims the store's audit, so two never
repair the same rows, and its findings are stored, reported and closed in the same way.
"""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

from psycopg.rows import dict_row

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_store
from bg_pipelines.database.secrets import cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import JOB_UNITS, JOBS
from bg_pipelines.records import Resource
from bg_pipelines.retries import Policies
from bg_pipelines.settings import load_settings
from bg_pipelines.sync import SyncRequest, SyncRun
from bg_pipelines.sync.summary import Failure, ResourceAudit
from bg_pipelines.wording import command

JOB = "drift_audit"


class Proof(NamedTuple):
    """What the last full pass of a resource proved: `tables` has the rows and the checksum of each, read and held.

    `source_count` is how many rows the platform said it has, where it says so; `rejected` could not be loaded;
    `changed_meanwhile` were written by another way while it was read, and are held as that way wrote them.
    """

    at: str
    source_count: int | None
    rejected: int
    changed_meanwhile: int
    tables: dict[str, dict[str, Any]]


class AuditReport(NamedTuple):
    """An audit of a store. `resources` are all that are synced, each with its proof and what was found of it; `messages` is
    what the run had to say."""

    store: str
    resources: dict[str, tuple[Proof | None, ResourceAudit | None]]
    failures: list[Failure]
    audited: bool
    messages: list[str]

    @property
    def is_well(self) -> bool:
        """Whether the store was audited and no drift is left. A pass whose proof fails keeps none, and fails."""
        return (
            self.audited
            and not self.failures
            and any(found is not None for _, found in self.resources.values())
            and all(found is None or found.left == 0 for _, found in self.resources.values())
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "store": self.store,
            "well": self.is_well,
            "audited": self.audited,
            "resources": {
                resource: {
                    "proof": proof and proof._asdict(),
                    "audit": found and {**vars(found), "left": found.left},
                }
                for resource, (proof, found) in self.resources.items()
            },
            "failures": [failure.error.as_dict() for failure in self.failures],
        }

    def lines(self) -> list[str]:
        """For people: of each resource what was proved, and what the sample showed."""
        lines = []
        for resource, (proof, found) in self.resources.items():
            lines.append(resource)
            lines.append(f"  proved  {_proved(proof)}")
            if found is None:
                lines.append("  sample  not audited" + (", never synced" if proof is None else ""))
                continue
            lines.append(f"  sample  {found.sentence().partition(': ')[2]}")
            if found.lag:
                lines.append(f"          {found.lag} not synced yet, which is not drift")
            if found.external_ids:
                lines.append(f"          {', '.join(found.external_ids)}")
        lines += [f"failed: {failure.error.message}; {failure.next}" for failure in self.failures]
        if not self.audited and not self.failures:
            lines += [*self.messages, "not audited"]
        return lines


def audit_store(database: Database, store: str, *, sample: int) -> AuditReport:
    """Audit one store in this process. Raises IntegrationError (bad_data) for one that is unknown or paused."""
    settings = load_settings()
    with database.transaction() as connection:
        store_id = find_store(connection, store)
        paused = connection.execute(
            "SELECT FROM stores WHERE id = %s AND paused_at IS NOT NULL", (store_id,)
        ).rowcount
    if paused:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"store {store} is paused, so it is not audited: {command('stores', 'resume', store)} resumes it",
            source="stores",
        )
    messages: list[str] = []
    summary = SyncRun(
        database,
        cipher(settings),
        SyncRequest(JOB_UNITS[JOB], job=JOB, stores=(store,), sample=sample, max_workers=1),
        run_id=f"cli-{uuid.uuid4()}",
        connect=lambda access, sleep: platforms.connect(
            access, api_version=settings.shopify_api_version, sleep=sleep
        ),
        log=messages.append,
        policies=Policies(settings.retry_policies, jobs=tuple(JOBS)),
    ).run()
    found = {audit.resource: audit for audit in summary.audits}
    resources = {
        resource: (proof, found.get(resource)) for resource, proof in _proofs(database, store).items()
    }
    return AuditReport(store, resources, summary.failures, audited=summary.complete > 0, messages=messages)


def _proofs(database: Database, store: str) -> dict[str, Proof | None]:
    with database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT resource, proof FROM sync_states y JOIN stores s ON s.id = y.store_id WHERE s.name = %s",
            (store,),
        )
        held = {row["resource"]: row["proof"] for row in cursor.fetchall()}
    return {resource.value: _proof(held[resource.value]) for resource in Resource if resource.value in held}


def _proof(kept: dict[str, Any] | None) -> Proof | None:
    if kept is None:
        return None
    return Proof(
        kept["at"], kept["source_count"], kept["rejected"], kept["changed_meanwhile"], kept["tables"]
    )


def _proved(proof: Proof | None) -> str:
    if proof is None:
        return "nothing yet: no full pass has completed"
    tables = ", ".join(
        f"{held['rows']:,} {name} (checksum {held['checksum']})" for name, held in proof.tables.items()
    )
    equal = "all rows match the source"
    if proof.changed_meanwhile:
        equal += f" ({proof.changed_meanwhile:,} changed during the pass)"
    there = "" if proof.source_count is None else f"; the source counted {proof.source_count:,}"
    rejected = f"; {proof.rejected:,} could not be loaded" if proof.rejected else ""
    return f"{proof.at[:16].replace('T', ' ')} UTC, {equal}: {tables}{there}{rejected}"
