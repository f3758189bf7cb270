"""Runbooks: what to do about each type of error, in one to three sentences. `docs/on-call.md` has them as a table.

N stands for the incident, STORE for its store; `runbook` fills them in.
"""

from __future__ import annotations

from collections.abc import Mapping

from bg_pipelines.errors import ErrorType
from bg_pipelines.incidents.fingerprints import AlertTarget, Installation, TextsRefused, TextsStopped
from bg_pipelines.wording import filled

RUNBOOKS: Mapping[ErrorType, str] = {
    ErrorType.TIMEOUT: (
        "Look at the vendor's status page; `bg-pipelines check` tells whether it answers this machine. "
        "It is retried automatically; once the vendor is well, `bg-pipelines incidents retry N` does so at once."
    ),
    ErrorType.CONNECTION: (
        "`bg-pipelines check` tells which stores this machine reaches: if none, look at its network, DNS and proxy; "
        "if all but one, at that store's address. Then `bg-pipelines incidents retry N`."
    ),
    ErrorType.SERVER_ERROR: (
        "The vendor fails on its side: look at its status page. "
        "It is retried automatically; once the vendor is well, `bg-pipelines incidents retry N` does so at once."
    ),
    ErrorType.MALFORMED_RESPONSE: (
        "The vendor sends malformed answers: look at its status page, and at a proxy if there is one. "
        "If it stays with one store, report it to the vendor with the request id of the error's details. "
        "Then `bg-pipelines incidents retry N`."
    ),
    ErrorType.REFUSED: (
        "The vendor turns calls away without a reason: look at its status page, and whether many calls come from this "
        "machine's address, or from a proxy that others use too. It is retried automatically; "
        "`bg-pipelines incidents retry N` does so at once."
    ),
    ErrorType.THROTTLED: (
        "Another app uses up the shop's rate limit: look at the shop's apps. "
        "`bg-pipelines incidents retry N` starts again; "
        "`bg-pipelines stores set STORE --every 60` syncs it once an hour only."
    ),
    ErrorType.DATABASE: (
        "Bring PostgreSQL back, or give it the disk or the connections that it lacks; `bg-pipelines check` says what is "
        "wrong with it. The next run does what was under way. Where one store's transactions are ended again and again "
        "(lock timeout, statement timeout, temporary space), raise the limit that the message names for the jobs' role, "
        "then `bg-pipelines incidents retry N`."
    ),
    ErrorType.LEASE_LOST: (
        "Nothing: the other worker finishes it. "
        "If it comes again and again, a machine is overloaded or loses its connection to the database."
    ),
    ErrorType.SHOP_LOCKED: (
        "The shop's owner asks the platform to unlock it. It is retried every half hour for a day; "
        "`bg-pipelines incidents retry N` does so at once, `bg-pipelines stores pause STORE` leaves it alone."
    ),
    ErrorType.OPERATION_RUNNING: (
        "A bulk operation has not ended within a day, or other apps' leave no room for it: look at the vendor's status "
        "page. `bg-pipelines incidents retry N` waits another day; a run with the config `backfill: pages` for this store "
        "reads it page by page instead."
    ),
    ErrorType.OPERATION_FAILED: (
        "The vendor's bulk operation failed, was cancelled or expired several times: look at its status page. "
        "`bg-pipelines incidents retry N` starts another; a run with the config `backfill: pages` for this store "
        "reads it page by page instead."
    ),
    ErrorType.RUN_DIED: (
        "Nothing, if it is the only one: the process was killed or the machine restarted, and the run is retried "
        "itself. If it comes back, look whether the machine is out of memory: `bg-pipelines status` has each job's peak."
    ),
    ErrorType.DRIFT: (
        "What could be repaired matches the source again: look in `bg-pipelines incidents show N` for the columns, and "
        "for who else writes to these tables. `bg-pipelines audit STORE` audits it again now, and closes it if no drift is found."
    ),
    ErrorType.STALE: (
        "`bg-pipelines status` names the late stores. Look whether runs are started and end (the Dagster UI), and at what the "
        "slowest of them waits for: an export that does not end (config `backfill: pages` reads page by page), a shop's "
        "rate limit, too few workers. It closes when all are read again."
    ),
    ErrorType.EVENTS_MISSED: (
        "Nothing was lost but carts: what the events told of is read by the next pass. Find out why they did not come: "
        "`bg-pipelines check` tells whether the receiver is reached at `BG_PUBLIC_URL`, and a platform removes a "
        "subscription whose deliveries fail for hours. It closes when all has been well for six hours."
    ),
    ErrorType.CREDENTIALS: (
        "Make a new token in the shop's admin and give it with `bg-pipelines stores set STORE --token -`; where the message "
        "speaks of a client secret, with `--client-secret -` in place of it. What was parked is then due at once."
    ),
    ErrorType.SCOPES: (
        "Grant the app the scope that the message names, in the shop's admin; `bg-pipelines check` tells whether "
        "it has it. Then `bg-pipelines incidents retry N`."
    ),
    ErrorType.PAYMENT_REQUIRED: (
        "The shop's owner pays the bill, or takes a plan that allows it; then `bg-pipelines incidents retry N`. "
        "Until then `bg-pipelines stores pause STORE`."
    ),
    ErrorType.SHOP_GONE: (
        "Ask the shop's owner. Closed for good: `bg-pipelines stores remove STORE --keep-orders` (without it, its orders go "
        "too), which closes this. For a while, or moved: `bg-pipelines stores pause STORE`, then "
        "`bg-pipelines incidents resolve N --note closed`; of one that moved, add the new domain under another name."
    ),
    ErrorType.QUERY_REJECTED: (
        "If many stores have it, the vendor no longer takes our API version: set `BG_SHOPIFY_API_VERSION`. "
        "Otherwise it is a bug: report the message. Then `bg-pipelines incidents retry N`."
    ),
    ErrorType.QUERY_TOO_COSTLY: (
        "A fault of ours: report the message. With a release that mends it, `bg-pipelines incidents retry N`."
    ),
    ErrorType.BAD_DATA: (
        "`bg-pipelines incidents show N` has the ids and reasons: correct the rows at the source. "
        "Then `bg-pipelines incidents retry N` reads everything again. If it is a profile edit that was rejected: edit "
        "again, then `bg-pipelines incidents resolve N --note edited`."
    ),
    ErrorType.COUNT_MISMATCH: (
        "Nothing of the batch was kept; `bg-pipelines incidents retry N` reads it again. "
        "If it comes back, report it with what `bg-pipelines incidents show N` says."
    ),
    ErrorType.OUTCOME_UNKNOWN: (
        "`bg-pipelines incidents show N` lists the text messages: look for each in Twilio's console, then "
        "`bg-pipelines texts settle ID --as sent`, `again` or `dropped`."
    ),
    ErrorType.SENDING_PAUSED: (
        "The message says why sending stopped: look at `bg-pipelines texts list` and in Twilio's console, and end what "
        "causes it. Then `bg-pipelines incidents resolve N --note ended` goes on sending."
    ),
    ErrorType.REPLY_WAITING: (
        "`bg-pipelines texts replies` shows what people wrote: answer or do what they ask, then "
        "`bg-pipelines texts replies --done ID`. The last one closes this."
    ),
    ErrorType.DATA_REQUEST: (
        "`bg-pipelines customers requests` has the file and the deadline: send it to the store's owner, then say so with "
        "`bg-pipelines customers requests done ID`. That closes this."
    ),
    ErrorType.CONFIGURATION: (
        "`bg-pipelines check` names the setting, key or migration: put it right on every machine. "
        "What no job could work without is over with the next run; what was parked, with `bg-pipelines incidents retry N`."
    ),
    ErrorType.UNKNOWN: (
        "A fault of ours: report the message, which names the place. `bg-pipelines incidents retry N` tries it again."
    ),
}


_ACCOUNT = (
    "Mend what the message names, in Twilio's console or the `BG_TWILIO_` settings; `bg-pipelines check` tells whether it "
    "is. Then `bg-pipelines incidents retry N`: the parked message is tried, and if it goes through so do all others."
)
_REFUSED = (
    "Look up the code at https://www.twilio.com/docs/api/errors and mend its cause in Twilio's console (a region: its geo "
    "permissions). Then `bg-pipelines incidents retry N`, or `bg-pipelines texts settle ID --as dropped` for each."
)
OF_TEXTS: Mapping[ErrorType, str] = {
    **dict.fromkeys((ErrorType.CREDENTIALS, ErrorType.PAYMENT_REQUIRED, ErrorType.CONFIGURATION), _ACCOUNT),
    **dict.fromkeys((ErrorType.SCOPES, ErrorType.QUERY_REJECTED), _REFUSED),
}
"""Of text messages, where it is no store's: what stops them all, and what parks them by their code."""
OF_DAGSTER = (
    "Look whether `bg-pipelines up` (or the daemon's service) is running where it should, and at the end of its log; start it "
    "again. Work that was due meanwhile is caught up. It closes when the daemon ticks again: `bg-pipelines status`."
)
OF_TARGET = (
    "Mend what the message names, or take the target out of `BG_ALERT_PHONES` or `BG_ALERT_URLS`. "
    "It closes when the target takes an alert, or is named no more."
)


def runbook(
    error_type: ErrorType,
    incident: int,
    store: str | None = None,
    *,
    kind: str = "",
) -> str:
    """The text for one incident, ready to be typed. `kind` is that of its fingerprint."""
    text = RUNBOOKS[error_type]
    if kind in (TextsStopped.kind, TextsRefused.kind):
        text = OF_TEXTS.get(error_type, text)
    elif kind == Installation.kind and error_type is ErrorType.RUN_DIED:
        text = OF_DAGSTER
    elif kind == AlertTarget.kind:
        text = OF_TARGET
    return filled(text, N=incident, STORE=store)
