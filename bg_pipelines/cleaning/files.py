"""Log files: rotated by size, compressed, and deleted by age and number."""

from __future__ import annotations

import gzip
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

LARGEST_BYTES = 16 * 1024 * 1024
KEPT = 10
KEEP = timedelta(days=30)


def rotate(folder: Path, *, now: datetime | None = None, largest: int = LARGEST_BYTES) -> Counter[str]:
    """Rotate the logs (`*.log`) in this folder and those below it, but in folders of PostgreSQL's data.

    A log is copied and then emptied, so that whoever writes to its end goes on. What is written between the two is lost:
    a line or two of a log.
    """
    now = now or datetime.now(UTC)
    figures: Counter[str] = Counter()
    for log in _logs(folder):
        if log.stat().st_size > largest:
            packed = log.with_name(f"{log.name}.{now:%Y%m%dT%H%M%S}.gz")
            partial = packed.with_suffix(".partial")
            with log.open("rb") as source, gzip.open(partial, "wb") as target:
                shutil.copyfileobj(source, target)
            os.utime(partial, (now.timestamp(), now.timestamp()))
            partial.replace(packed)
            figures["log_files.bytes"] += log.stat().st_size - packed.stat().st_size
            figures["log_files.rotated"] += 1
            with log.open("r+b") as source:
                source.truncate(0)
        packed_logs = sorted(log.parent.glob(f"{log.name}.*.gz"), key=lambda path: path.stat().st_mtime)
        for number, old in enumerate(reversed(packed_logs)):
            age = now - datetime.fromtimestamp(old.stat().st_mtime, UTC)
            if number >= KEPT or age > KEEP:
                figures["log_files.bytes"] += old.stat().st_size
                figures["log_files.rows"] += 1
                old.unlink()
    return figures


def _logs(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink():
            continue
        if path.is_dir() and not (path / "PG_VERSION").exists():
            yield from _logs(path)
        elif path.suffix == ".log" and path.is_file():
            yield path
