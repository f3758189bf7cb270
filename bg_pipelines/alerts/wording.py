"""What an alert says: a title, a body, and both in one text message. No secret and no personal datum is in either."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from bg_pipelines.wording import times

LONGEST_SMS = 320

AlertKind = Literal["opened", "escalated", "all_clear"]


class Facts(NamedTuple):
    """What an alert is about. `resolution` says how it ended; `incident_id` is None where it has no number yet."""

    severity: str
    subject: str
    error_type: str
    message: str
    needs_attention: bool
    since: datetime
    times: int = 1
    units: Sequence[str] = ()
    incident_id: int | None = None
    resolution: str | None = None


class Message(NamedTuple):
    """One alert as it is sent. By its `reference`, the end of its text, it is found again."""

    kind: AlertKind
    severity: str
    title: str
    body: str
    reference: str


def compose(kind: AlertKind, facts: Facts) -> tuple[str, str]:
    """Title and body."""
    mark = "all clear" if kind == "all_clear" else facts.severity
    still = ", still" if kind == "escalated" else ""
    title = f"[{mark}] {facts.subject}: {facts.error_type}{still}"
    since = f"{facts.since:%Y-%m-%d %H:%M} UTC"
    affected = f": {', '.join(facts.units)}" if facts.units else ""
    number = facts.incident_id
    command = f"bg-pipelines incidents show {number}" if number is not None else "bg-pipelines incidents list"
    if kind == "all_clear":
        lines = [
            f"It is over: {facts.resolution or 'resolved'}.",
            f"It began {since} and was seen {times(facts.times)}{affected}.",
            facts.message,
        ]
    else:
        waits = "Requires attention." if facts.needs_attention else "Retrying automatically."
        lines = [facts.message, waits, f"Since {since}, seen {times(facts.times)}{affected}."]
    return title, "\n".join([*lines, command])


def sms(message: Message) -> str:
    """At most 320 characters, in the alphabet of text messages (GSM-7) where it has them, the reference last."""
    end = f"\n{message.reference}"
    text = _plain(f"{message.title}\n{message.body}")
    room = LONGEST_SMS - len(end)
    return (text if len(text) <= room else f"{text[: room - 3].rstrip()}...") + end


# One character that GSM-7 lacks makes each segment less than half as long.
_PLAIN = str.maketrans(
    {
        "`": "'",
        "‘": "'",
        "’": "'",
        "‚": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "«": '"',
        "»": '"',
        "–": "-",
        "—": "-",
        "‑": "-",
        "−": "-",
        "…": "...",
        "•": "-",
        "→": "->",
        "×": "x",
        "\t": " ",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)


def _plain(text: str) -> str:
    return text.translate(_PLAIN)
