"""Requests whose addresses hold secrets or numbers: what urllib3 would log of them is dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_silenced: ContextVar[bool] = ContextVar("silenced", default=False)


@contextmanager
def silenced() -> Iterator[None]:
    """In here, and in threads that inherit this context, urllib3 logs nothing; elsewhere it does as before."""
    before = _silenced.set(True)
    try:
        yield
    finally:
        _silenced.reset(before)


# A filter goes by its own logger only, not by those below it.
for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(lambda _: not _silenced.get())
