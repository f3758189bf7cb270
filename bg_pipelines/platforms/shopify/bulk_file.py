"""The file of a bulk operation, line by line: streamed, and resumed at any byte.

Its address is a secret: whoever has it may read the file. No credentials are sent to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import urllib3
from urllib3.util import Url, parse_url

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.http import Transport, parse_json
from bg_pipelines.platforms.shopify.client import ShopifyClient
from bg_pipelines.platforms.shopify.failures import SOURCE, classify_status, malformed

CHUNK_BYTES = 128 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_REDIRECTS = 3
HOSTS = ("storage.googleapis.com", "shopify.com", "myshopify.com")
"""https://shopify.dev/docs/api/usage/bulk-operations/queries: files are in Google's storage."""
PROGRESS_SECONDS, PROGRESS_BYTES = 60.0, 64 * 1024
"""A download that brings less than so much in so many seconds of waiting for it is given up."""

Node = dict[str, Any]


class Line(NamedTuple):
    """A line of a file: the byte it begins at, as it is, and what it says."""

    offset: int
    text: bytes
    node: Node


def lines_from(
    client: ShopifyClient, url: str, offset: int, line_bytes: int = MAX_LINE_BYTES
) -> Iterator[Line]:
    """The lines of a file from a byte on.

    Raises IntegrationError: timeout, connection (cut short, too), operation_failed where it no longer exists.
    """
    rest = b""
    for chunk in _chunks(client, url, offset):
        *whole, rest = (rest + chunk).split(b"\n")
        for text in whole:
            if text:
                yield Line(offset, text, parse(text))
            offset += len(text) + 1
        if len(rest) > line_bytes:
            raise malformed(f"a line of the bulk operation's file is longer than {line_bytes} bytes")
    if rest.strip():
        yield Line(offset, rest, parse(rest))


def _chunks(client: ShopifyClient, url: str, offset: int) -> Iterator[bytes]:
    # As it is: then the bytes that are counted are those of its lines.
    headers = {"Accept-Encoding": "identity", **_range(offset)}
    waited, brought = 0.0, 0
    # It has no size that would be too large, and its time is a matter of progress.
    transport = Transport(
        SOURCE,
        "Shopify",
        address_of="what Shopify gives as the place of a bulk operation's file",
        timeouts=client.timeouts._replace(whole=math.inf),
        max_bytes=math.inf,
        clock=client.clock,
    )
    with (
        closing(transport),
        transport.open(
            "GET",
            url,
            headers=headers,
            redirects=MAX_REDIRECTS,
            may_go_to=lambda place: _is_vendors(place, client.base_url),
        ) as response,
    ):
        skip = _to_skip(response, offset)
        while True:
            asked = client.clock()
            chunk = response.read1(CHUNK_BYTES, decode_content=True)
            waited, brought = waited + client.clock() - asked, brought + len(chunk)
            if not chunk:
                break
            if waited >= PROGRESS_SECONDS:
                if brought < PROGRESS_BYTES:
                    message = (
                        f"the download of a bulk operation's file brought {brought} bytes in {waited:.0f} s"
                    )
                    raise IntegrationError.of(ErrorType.TIMEOUT, message, source=SOURCE)
                waited, brought = 0.0, 0
            skipped = min(skip, len(chunk))
            skip -= skipped
            if skipped < len(chunk):
                yield chunk[skipped:]
        if skip:
            raise malformed("the bulk operation's file ends before what was read of it already")


def _is_vendors(place: Url, api: str) -> bool:
    """Whether a file may be fetched there: over TLS from the vendor, or from the machine that its API is at."""
    host = (place.host or "").lower()
    if place.scheme == "https" and any(host == one or host.endswith(f".{one}") for one in HOSTS):
        return True
    at = parse_url(api)
    return (host, place.scheme) == ((at.host or "").lower(), at.scheme)


def _range(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-"} if offset else {}


def _to_skip(response: urllib3.BaseHTTPResponse, offset: int) -> int:
    """How many bytes come before those that were asked for: none where the server honours a range."""
    status = response.status
    if status == 200:
        return offset
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return 0
    if status in (408, 429) or status >= 500:
        raise classify_status(status, response.headers, {"status": status})
    if status >= 300:
        raise IntegrationError.of(
            ErrorType.OPERATION_FAILED,
            f"the bulk operation's file no longer exists ({status}). Another export follows automatically",
            source=SOURCE,
        )
    raise malformed(f"the bulk operation's file came with status {status} and not from byte {offset} on")


def parse(text: bytes) -> Node:
    try:
        node = parse_json(text)
    except ValueError:
        node = None
    if not isinstance(node, dict):
        raise malformed("a line of the bulk operation's file is not JSON, or cut short")
    return node
