"""A store's webhook subscriptions, kept as `topics` declares them: the work of the unit `webhooks`.

What is declared is compared with what the platform has, and only what differs is called: made, updated or removed. Ours
are those that deliver to our address, and those we know and that still deliver where we last saw them; all others are
another app's or another installation's, and never touched. A subscription that was there and is gone is made again; what
its events would have told is read by the next pass of the tables concerned, which is due at once.

What an interruption costs: nothing. A subscription that was made before a crash is found by the next attempt, which makes
no second one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Subscription, Wanted, Webhooks
from bg_pipelines.queues import next_hour
from bg_pipelines.sync.context import Context
from bg_pipelines.webhooks import subscription_faults, subscription_rows
from bg_pipelines.webhooks.declared import address, declared, same_address, units_of
from bg_pipelines.webhooks.subscription_faults import OF_ONE_TOPIC, Refusal
from bg_pipelines.webhooks.subscription_rows import KnownSubscription
from bg_pipelines.work import attempts, store_units

Connection = psycopg.Connection[Any]


def keep_subscriptions(context: Context, public_url: str, *, by_hand: Collection[str] = ()) -> None:
    """Keep the subscriptions of one store. Of platforms in `by_hand` a person may have made them.

    Raises IntegrationError, classified, where the platform or the database fails; what one topic is refused for is an
    incident of its own, and the others are kept.
    """
    webhooks = context.platform.webhooks
    platform = context.claim.platform
    if webhooks is not None:
        try:
            Keeping(context, webhooks, address(public_url, platform)).run()
        except IntegrationError as error:
            # The token may not manage subscriptions, but there is the key of one that was made by hand.
            if error.error_type is not ErrorType.SCOPES or platform not in by_hand:
                raise
        else:
            return
    with context.database.transaction() as connection:
        _complete(connection, context, Counts())


def end_subscriptions(database: Database, store_id: int, webhooks: Webhooks, uri: str | None) -> int:
    """Remove the subscriptions of a store that leaves, at its platform; returns how many. `uri` is our address, if any.

    One that another store has as well (of an application that several of a platform's stores share) stays. Raises
    IntegrationError, classified.
    """
    with database.transaction() as connection:
        known = subscription_rows.read(connection, store_id)
        shared = subscription_rows.of_others(connection, store_id)
    gone = [
        one.external_id
        for one in webhooks.subscriptions()
        if _is_ours(one, known, uri) and one.external_id not in shared
    ]
    for external_id in gone:
        webhooks.unsubscribe(external_id)
    return len(gone)


def _is_ours(one: Subscription, known: Iterable[KnownSubscription], uri: str | None) -> bool:
    if uri is not None and same_address(one.uri, uri):
        return True
    # Of another address, but where we last saw it: BG_PUBLIC_URL has changed. What somebody else has turned to their
    # address since, such as a copy of this installation, is theirs.
    return any(row.external_id == one.external_id and row.uri == one.uri for row in known)


class Keeping:
    """One look at the subscriptions of a store. Used once."""

    def __init__(self, context: Context, webhooks: Webhooks, uri: str) -> None:
        self.context = context
        self.webhooks = webhooks
        self.uri = uri
        self.store_id = context.claim.store_id
        self.wanted = declared(context.claim.platform, uri, each_topic=webhooks.each_topic)
        self.kept: list[Subscription] = []
        self.removed: list[str] = []
        self.refused: list[Refusal] = []
        self.counts = Counts()

    def run(self) -> None:
        with self.context.database.transaction() as connection:
            known = subscription_rows.read(connection, self.store_id)
        found = self.webhooks.subscriptions()
        ours = [one for one in found if _is_ours(one, known, self.uri)]
        self._report_missing(known, ours)
        left = list(ours)
        for wanted in self.wanted:
            self.context.check_stopped()
            there = self._best(wanted, left)
            if there is not None:
                left.remove(there)
            self._keep(wanted, there)
        for stray in left:
            self.context.check_stopped()
            self.webhooks.unsubscribe(stray.external_id)
            self.removed.append(stray.external_id)
            self.counts.deleted += 1
        self.counts.read = len(ours)
        self._settle({row.external_id: row for row in known})

    def _best(self, wanted: Wanted, left: Sequence[Subscription]) -> Subscription | None:
        """The subscription that comes nearest, of those with the same topic, or (where one has all topics) of any."""

        def nearness(one: Subscription) -> tuple[bool, ...]:
            # Of the same topic Shopify takes no second one with the same address and filter: the one that has them is
            # changed.
            same_key = same_address(one.uri, wanted.uri) and one.filter == wanted.filter
            return self._is_as(one, wanted), same_key, one.delivers

        candidates = (one for one in left if not self.webhooks.each_topic or one.topics == wanted.topics)
        return max(candidates, key=nearness, default=None)

    def _is_as(self, there: Subscription, wanted: Wanted) -> bool:
        # Where a subscription has a key of its own, what it signs has the address as it is written there.
        same = there.uri == wanted.uri if self.webhooks.own_keys else same_address(there.uri, wanted.uri)
        return (
            same
            and there.delivers
            and there.filter == wanted.filter
            and set(there.topics) == set(wanted.topics)
            and set(there.include_fields or ()) == set(wanted.include_fields or ())
        )

    def _keep(self, wanted: Wanted, there: Subscription | None) -> None:
        """Have this subscription, out of the one that is there, if one is."""
        if there is not None and self._is_as(there, wanted):
            self.kept.append(there)
            self.counts.unchanged += 1
            return
        try:
            updated = None if there is None else self.webhooks.update(there.external_id, wanted)
            self.kept.append(updated or self.webhooks.subscribe(wanted))
        except IntegrationError as error:
            if error.error_type not in OF_ONE_TOPIC or not self.webhooks.each_topic:
                raise
            self.refused.append(Refusal(wanted.topics, error))
            if there is not None:
                self.kept.append(there)
                self.counts.unchanged += 1
            return
        if updated is None:
            self.counts.inserted += 1
        else:
            self.counts.updated += 1

    # What is missing

    def _report_missing(self, known: Sequence[KnownSubscription], ours: Sequence[Subscription]) -> None:
        """What we had and the platform has no more, or has switched off: reported, and what it would have told is read.

        Before anything is made again: an attempt that is interrupted after that would not see it any more.
        """
        alive = {one.external_id for one in ours}
        gone = [row for row in known if row.external_id not in alive]
        working = {topic for one in ours if one.delivers for topic in one.topics}
        knew = {topic for row in known for topic in row.topics}
        missing = [
            topic
            for wanted in self.wanted
            for topic in wanted.topics
            if topic in knew and topic not in working
        ]
        if not gone and not missing:
            return
        with self.context.database.transaction() as connection:
            subscription_rows.mark_removed(connection, self.store_id, [row.external_id for row in gone])
            if missing:
                subscription_faults.report_missing(connection, self.context, missing)
                units = units_of(self.context.claim.platform, missing)
                store_units.hint(connection, [(self.store_id, unit) for unit in units])
            # Raises where another worker has the claim by now.
            store_units.save(connection, self.context.claim, {})
        if missing:
            said = subscription_faults.disappeared(missing)
            self.context.say(f"{self.context.store_name}: {said}")

    # What is kept of it

    def _settle(self, known: dict[str, KnownSubscription]) -> None:
        keys = self._new_keys(known)
        changed = [
            one
            for one in self.kept
            if one.external_id in keys or not (one.external_id in known and known[one.external_id].is_as(one))
        ]
        with self.context.database.transaction() as connection:
            subscription_rows.write(connection, self.store_id, changed, keys)
            subscription_rows.mark_removed(connection, self.store_id, self.removed)
            subscription_faults.report_refused(connection, self.context, self.refused)
            subscription_faults.clear_missing(connection, self.context)
            _complete(connection, self.context, self.counts)
        self.context.note_rows(1, self.counts)

    def _new_keys(self, known: dict[str, KnownSubscription]) -> dict[str, bytes]:
        """Keys that are not kept yet, encrypted. Asked for where the platform's list does not have them, each time: a
        person may have changed one there."""
        if not self.webhooks.own_keys:
            return {}
        cipher, keys = self.context.cipher, {}
        for one in self.kept:
            key = one.signature_key or self.webhooks.signature_key(one.external_id)
            row = known.get(one.external_id)
            stored = None if row is None else row.signature_key
            if key is None or (stored and cipher.can_decrypt(stored) and cipher.decrypt(stored) == key):
                continue
            keys[one.external_id] = cipher.encrypt(key)
        return keys


def _complete(connection: Connection, context: Context, counts: Counts) -> None:
    attempts.count(connection, context.attempt, 1, counts)
    claimed_at = context.claim.claimed_at
    context.complete(connection, {}, next_due_at=next_hour(claimed_at), full_pass_since=claimed_at)
