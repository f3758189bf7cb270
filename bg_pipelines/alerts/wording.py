"""What an alert says: a title, a body, and both in one text message. No secret and no personal datum is in either."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from bg_pipelines.messaging.templates import GSM_7, GSM_7_TWICE, plain, segments
from bg_pipelines.wording import times, visible

SMS_SEGMENTS = 2
"""What an alert may take: each is paid for, on every phone."""

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
    """One alert as it is sent. By its `reference`, which ends its text message, it is found again."""

    kind: AlertKind
    severity: str
    title: str
    body: str
    reference: str
    incident_id: int | None = None


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
    return visible(title), visible("\n".join([*lines, command]))


def sms(message: Message) -> str:
    """Two segments at most, with the incident's number and the reference last.

    In the alphabet of text messages (GSM-7) as far as that can be: accents and symbols go. A name in another script is
    left as it is, and less of the rest is said.
    """
    number = "" if message.incident_id is None else f"#{message.incident_id} "
    end = f"\n{number}{message.reference}"
    text = "\n".join(line.strip() for line in _plain(f"{message.title}\n{message.body}").splitlines())
    if segments(text + end) <= SMS_SEGMENTS:
        return text + end
    # The longest that fits; a longer one never takes fewer segments.
    fits = bisect_right(
        range(1, len(text)), SMS_SEGMENTS, key=lambda length: segments(f"{text[:length].rstrip()}...{end}")
    )
    return f"{text[:fits].rstrip()}...{end}"


_NO_ACCENT = str.maketrans("łŁđĐħĦıŀĿŧŦœŒþÞðÐ", "lLdDhHilLtToOpPdD")


def _plain(text: str) -> str:
    """What is not in GSM-7 without its accents; what is no letter and no digit without itself."""
    return "".join(
        character if character in GSM_7 or character in GSM_7_TWICE else _nearest(character)
        for character in plain(text.replace("`", "'").replace("→", "->"))
    )


def _nearest(character: str) -> str:
    bare = unicodedata.normalize("NFKD", character.translate(_NO_ACCENT))
    bare = "".join(part for part in bare if not unicodedata.combining(part))
    if bare and all(part in GSM_7 or part in GSM_7_TWICE for part in bare):
        return bare
    return character if character.isalnum() else ""
