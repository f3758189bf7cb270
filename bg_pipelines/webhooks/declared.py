"""The subscriptions that a store should have: what `topics` declares, delivered to our address."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from bg_pipelines.platforms.protocol import Wanted
from bg_pipelines.queues import Unit
from bg_pipelines.webhooks.topics import TOPICS


def address(public_url: str, platform: str) -> str:
    """Where deliveries of a platform go: the receiver's path for it, behind BG_PUBLIC_URL."""
    return f"{public_url.rstrip('/')}/webhooks/{platform}"


def declared(platform: str, uri: str, *, each_topic: bool) -> list[Wanted]:
    """The subscriptions that a store of this platform should have."""
    topics = [topic for topic in TOPICS.get(platform, {}).values() if topic.by_api]
    if each_topic:
        return [Wanted((topic.name,), uri, topic.fields, topic.filter) for topic in topics]
    return [Wanted(tuple(topic.name for topic in topics), uri)] if topics else []


def units_of(platform: str, topics: Iterable[str]) -> list[Unit]:
    """The units whose passes find what events of these topics tell of; none for carts, which only events tell of."""
    tables = {TOPICS[platform][topic].table for topic in topics}
    if "products" in tables:
        tables.add("product_variants")
    return [unit for unit in Unit if unit.resource is not None and unit.value in tables]


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are one, however their host and their port are written."""
    try:
        return _parts(one) == _parts(other)
    except ValueError:
        return False


def _parts(uri: str) -> tuple[str, str | None, int | None, str, str]:
    parts = urlsplit(uri)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/"), parts.query
