"""A shop's bulk operations: what each has written, and its status at any time.

An operation runs in a thread of its own, page by page, so that others can ask the shop meanwhile. It is done when
it has run and when its time is over by the sandbox's clock, whichever comes later.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import orjson

from bg_pipelines.sandbox.clock import stamp
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.bulk_query import Row
from bg_pipelines.sandbox.shopify.store import gid

AT_ONCE = 5
SECONDS = 2.0
KEPT_SECONDS = 7 * 86400
# How long an operation is only created, and how long a cancelation takes.
HALF_A_SECOND = 0.5
LONGEST_WAIT_SECONDS = 2.0
IN_MEMORY_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
ENDED = frozenset({"CANCELED", "COMPLETED", "EXPIRED", "FAILED"})


def scratch_file() -> IO[bytes]:
    """In memory while it is small; it goes away with the operation."""
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)


@dataclass
class BulkFile:
    """The first `length` bytes of what an operation wrote."""

    operation: BulkOperation
    length: int

    def chunks(self, first: int = 0) -> Iterator[bytes]:
        for start in range(first, self.length, CHUNK_BYTES):
            yield self.operation.read(start, min(CHUNK_BYTES, self.length - start))


@dataclass
class BulkOperation:
    """One operation. `fault` is what was to go wrong with it when it was started."""

    number: int
    query: str
    created_at: float
    seconds: float
    key: str
    fault: Fault | None = None
    error_code: str | None = None
    lines: int = 0
    roots: int = 0
    worked_at: float | None = None
    canceled_at: float | None = None
    file: IO[bytes] = field(default_factory=scratch_file)
    # Where each line ends, so that a part of the file can be cut off between two of them.
    ends: array[int] = field(default_factory=lambda: array("Q"))
    reading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def id(self) -> str:
        return gid("BulkOperation", self.number)

    def write(self, lines: Iterator[Row]) -> None:
        end = self.ends[-1] if self.ends else 0
        written = []
        for line in lines:
            text = orjson.dumps(line) + b"\n"
            written.append(text)
            end += len(text)
            self.ends.append(end)
            self.lines += 1
            self.roots += "__parentId" not in line
        self.file.write(b"".join(written))

    def read(self, start: int, size: int) -> bytes:
        with self.reading:
            self.file.seek(start)
            return self.file.read(size)

    def ended_at(self) -> float | None:
        """When it ended, if it has run to its end."""
        if self.canceled_at is not None:
            return self.canceled_at + HALF_A_SECOND
        return None if self.worked_at is None else max(self.created_at + self.seconds, self.worked_at)

    def status(self, now: float) -> str:
        ended_at = self.ended_at()
        if ended_at is None or now < ended_at:
            if self.canceled_at is not None:
                return "CANCELING"
            return "CREATED" if now < self.created_at + min(HALF_A_SECOND, self.seconds) else "RUNNING"
        if self.canceled_at is not None or self.has_fault("bulk_canceled"):
            return "CANCELED"
        if now >= ended_at + KEPT_SECONDS:
            return "EXPIRED"
        return "FAILED" if self.error_code is not None else "COMPLETED"

    def has_fault(self, kind: str) -> bool:
        return self.fault is not None and self.fault.kind == kind

    def shown_lines(self, status: str) -> int:
        """How many lines the file that is served has."""
        if status == "FAILED":
            return self.lines // 2 if self.error_code != "ACCESS_DENIED" else 0
        if self.fault is not None and self.fault.kind == "bulk_short_file":
            lacking = self.fault.value if isinstance(self.fault.value, int) else 1
            return max(0, self.lines - lacking)
        return self.lines

    def served(self, now: float) -> BulkFile | None:
        status = self.status(now)
        shown = self.shown_lines(status)
        if status not in {"COMPLETED", "FAILED"} or not shown:
            return None
        return BulkFile(self, self.ends[shown - 1])

    def to_node(self, now: float, base_url: str) -> Node:
        status = self.status(now)
        served = self.served(now)
        url = f"{base_url}/bulk/{self.key}.jsonl" if served is not None else None
        # A count that grows while it runs; the vendor promises no more.
        ended = status in ENDED or self.seconds <= 0
        share = 1.0 if ended else min(1.0, max(0.0, (now - self.created_at) / self.seconds))
        ended_at = self.ended_at()
        return {
            "id": self.id,
            "_key": (self.number,),
            "status": status,
            "type": "QUERY",
            "query": self.query,
            "createdAt": stamp(self.created_at),
            "completedAt": stamp(ended_at) if ended_at and status in {"COMPLETED", "EXPIRED"} else None,
            "errorCode": self.error_code if status == "FAILED" else None,
            "objectCount": str(int(self.lines * share)),
            "rootObjectCount": str(int(self.roots * share)),
            "fileSize": str(served.length) if served is not None and status == "COMPLETED" else None,
            "url": url if status == "COMPLETED" else None,
            "partialDataUrl": url if status == "FAILED" else None,
        }


class BulkOperations:
    """All of a shop's. `seconds` is how long the next ones take at least; `ranges` whether a part of a file may be fetched; `changed` shares the shop's lock."""

    def __init__(self, lock: threading.RLock) -> None:
        self.changed = threading.Condition(lock)
        self.seconds = SECONDS
        self.ranges = True
        self.all: dict[str, BulkOperation] = {}

    def start(self, number: int, query: str, now: float, fault: Fault | None) -> BulkOperation:
        slow = fault.seconds if fault is not None and fault.kind == "bulk_slow" else 0.0
        key = hashlib.sha256(f"{number}:{now}:{query}".encode()).hexdigest()[:40]
        operation = BulkOperation(number, query, now, self.seconds + slow, key, fault)
        if fault is not None and fault.kind == "bulk_failed":
            operation.error_code = str(fault.value or "INTERNAL_SERVER_ERROR")
        self.all[operation.id] = operation
        return operation

    def under_way(self, now: float) -> int:
        return sum(operation.status(now) not in ENDED for operation in self.all.values())

    def settle(self, operation: BulkOperation, now: float) -> None:
        """Whose time is over, for that one a poll waits a moment until it has run to its end, too."""
        if operation.canceled_at is None and now >= operation.created_at + operation.seconds:
            self.changed.wait_for(lambda: operation.ended_at() is not None, timeout=LONGEST_WAIT_SECONDS)

    def file(self, name: str, now: float) -> BulkFile | None:
        key = name.removesuffix(".jsonl")
        operation = next((one for one in self.all.values() if one.key == key), None)
        return None if operation is None else operation.served(now)
