"""Fingerprints: what makes two failures the same fault, and so one incident.

    StoreUnit             a unit of a store, or the whole store, fails with one type of error
    Platform              the same in many stores of a platform: one cause, such as a rotated app secret
    Circuit               a circuit breaker of a store or a platform is open
    RejectedRows          rows of a store's table could not be loaded
    RejectedEdits         the platform refuses edits of a store's customers
    RejectedCounts        the platform refuses corrections of a store's stock
    Drift                 an audit found that a store's table differs from its source
    MissingSubscriptions  webhook subscriptions of a store disappeared at its platform
    RefusedSubscriptions  the platform refuses webhook subscriptions of a store
    UntoldChanges         webhooks tell nothing of much that changes at a store, or at all of a platform
    Stale                 stores are not read to the end any more
    Job                   runs of a job fail with one type of error
    Installation          the database or the settings are wrong: every job is affected
    AlertTarget           an alert target cannot be reached
    TextsStopped          no text messages are sent, or none to a prefix: the account, a spike of opt-outs or of spending
    TextsRefused          Twilio refuses text messages with a code that says nothing of their recipients
    TextsUnclear          text messages of which nobody knows whether they were sent
    TextReplies           replies to text messages wait for a person
    DataRequest           a customer's data was asked for, or its erasure, and a person has to do something
    Cleaning              a task of a cleaning job fails

The column `incidents.fingerprint` has it as text, `kind:…`; only `str()` writes that text and only `parse` reads it.
The kind is in `incidents.kind`, too, for queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from bg_pipelines.errors import ErrorType

_WHOLE_STORE = "unreachable"
_MANY = "many"


class _Plain:
    """Written as its kind and its fields, in their order."""

    kind: ClassVar[str]

    def __str__(self) -> str:
        return ":".join(map(str, (self.kind, *vars(self).values())))


@dataclass(frozen=True)
class _OfPlatform:
    """`store_id` is None where many stores of the platform have it."""

    kind: ClassVar[str]
    platform: str
    store_id: int | None

    def __str__(self) -> str:
        return f"{self.kind}:{self.platform}:{self.store_id or _MANY}"


@dataclass(frozen=True)
class StoreUnit:
    """`unit` is None where the whole store is out of reach."""

    kind: ClassVar[str] = "store"
    store_id: int
    unit: str | None
    error_type: ErrorType

    def __str__(self) -> str:
        return f"{self.kind}:{self.store_id}:{self.unit or _WHOLE_STORE}:{self.error_type}"


@dataclass(frozen=True)
class Platform:
    """As `StoreUnit`, of many stores."""

    kind: ClassVar[str] = "platform"
    platform: str
    unit: str | None
    error_type: ErrorType

    def __str__(self) -> str:
        return f"{self.kind}:{self.platform}:{self.unit or _WHOLE_STORE}:{self.error_type}"


@dataclass(frozen=True)
class Circuit(_Plain):
    """`key` is that of the table `circuits`."""

    kind: ClassVar[str] = "circuit"
    key: str


@dataclass(frozen=True)
class RejectedRows(_Plain):
    kind: ClassVar[str] = "rejects"
    store_id: int
    table: str


@dataclass(frozen=True)
class RejectedEdits(_Plain):
    kind: ClassVar[str] = "edits"
    store_id: int


@dataclass(frozen=True)
class RejectedCounts(_Plain):
    kind: ClassVar[str] = "counts"
    store_id: int


@dataclass(frozen=True)
class Drift(_Plain):
    kind: ClassVar[str] = "drift"
    store_id: int
    table: str


@dataclass(frozen=True)
class MissingSubscriptions(_OfPlatform):
    kind: ClassVar[str] = "missing_subscriptions"


@dataclass(frozen=True)
class RefusedSubscriptions(_OfPlatform):
    kind: ClassVar[str] = "refused_subscriptions"


@dataclass(frozen=True)
class UntoldChanges(_OfPlatform):
    kind: ClassVar[str] = "untold"


@dataclass(frozen=True)
class Stale(_Plain):
    kind: ClassVar[str] = "stale"


@dataclass(frozen=True)
class Job(_Plain):
    kind: ClassVar[str] = "job"
    job: str
    error_type: ErrorType


@dataclass(frozen=True)
class Installation:
    """`part` is DATABASE, CONFIGURATION or DAGSTER; `detail` distinguishes its faults, and is empty for an outage."""

    kind: ClassVar[str] = "installation"
    part: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.part}" + (f":{self.detail}" if self.detail else "")


DATABASE, CONFIGURATION, DAGSTER = "database", "configuration", "dagster"
DATABASE_AWAY = Installation(DATABASE)


@dataclass(frozen=True)
class AlertTarget(_Plain):
    """`target` is the key under which alerts know it, which holds no address."""

    kind: ClassVar[str] = "target"
    target: str


@dataclass(frozen=True)
class TextsStopped(_Plain):
    """`cause` is account-CODE, stop, filtered, or prefix-DIGITS: that prefix alone is stopped."""

    kind: ClassVar[str] = "texts_stopped"
    cause: str


@dataclass(frozen=True)
class TextsRefused(_Plain):
    """`code` is Twilio's, or the HTTP status."""

    kind: ClassVar[str] = "texts_refused"
    code: int


@dataclass(frozen=True)
class TextsUnclear(_Plain):
    kind: ClassVar[str] = "texts_unclear"


@dataclass(frozen=True)
class TextReplies(_Plain):
    kind: ClassVar[str] = "text_replies"


@dataclass(frozen=True)
class DataRequest(_Plain):
    """`request_id` is that of `data_requests`."""

    kind: ClassVar[str] = "request"
    request_id: int


@dataclass(frozen=True)
class Cleaning(_Plain):
    kind: ClassVar[str] = "cleaning"
    task: str


@dataclass(frozen=True)
class Unknown:
    """A text without a type in this release: a later one wrote it."""

    text: str

    def __str__(self) -> str:
        return self.text


Fingerprint = (
    StoreUnit
    | Platform
    | Circuit
    | RejectedRows
    | RejectedEdits
    | RejectedCounts
    | Drift
    | MissingSubscriptions
    | RefusedSubscriptions
    | UntoldChanges
    | Stale
    | Job
    | Installation
    | AlertTarget
    | TextsStopped
    | TextsRefused
    | TextsUnclear
    | TextReplies
    | DataRequest
    | Cleaning
    | Unknown
)


OfStoreOrMany = MissingSubscriptions | RefusedSubscriptions
"""Faults of a store that park nothing, and of which many stores of a platform make one."""


def parse(text: str) -> Fingerprint:
    """The fingerprint that `text` is; `str()` of it is `text` again."""
    try:
        return _parse(text)
    except ValueError:
        return Unknown(text)


def _parse(text: str) -> Fingerprint:
    match text.split(":"):
        case ["store", store, unit, error_type]:
            return StoreUnit(int(store), None if unit == _WHOLE_STORE else unit, ErrorType(error_type))
        case ["platform", platform, unit, error_type]:
            return Platform(platform, None if unit == _WHOLE_STORE else unit, ErrorType(error_type))
        case ["circuit", scope, name]:
            return Circuit(f"{scope}:{name}")
        case ["rejects", store, table]:
            return RejectedRows(int(store), table)
        case ["edits", store]:
            return RejectedEdits(int(store))
        case ["counts", store]:
            return RejectedCounts(int(store))
        case ["drift", store, table]:
            return Drift(int(store), table)
        case ["missing_subscriptions", platform, store]:
            return MissingSubscriptions(platform, None if store == _MANY else int(store))
        case ["refused_subscriptions", platform, store]:
            return RefusedSubscriptions(platform, None if store == _MANY else int(store))
        case ["untold", platform, store]:
            return UntoldChanges(platform, None if store == _MANY else int(store))
        case ["stale"]:
            return Stale()
        case ["job", job, error_type]:
            return Job(job, ErrorType(error_type))
        case ["installation" | "house", part, *detail]:  # house: in files of an earlier release
            return Installation(part, ":".join(detail))
        case ["cleaning", task]:
            return Cleaning(task)
        case ["target", *target]:
            return AlertTarget(":".join(target))
        case ["texts_stopped", cause]:
            return TextsStopped(cause)
        case ["texts_refused", code]:
            return TextsRefused(int(code))
        case ["texts_unclear"]:
            return TextsUnclear()
        case ["text_replies"]:
            return TextReplies()
        case ["request", request]:
            return DataRequest(int(request))
    return Unknown(text)


def circuit_keys(of: Iterable[Fingerprint]) -> list[str]:
    """The circuits that these stand for."""
    return [one.key for one in of if isinstance(one, Circuit)]
