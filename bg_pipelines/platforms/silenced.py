"""Requests whose addresses hold secrets or numbers: what urllib3 would log of them is dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly() -> Iterator[None]:
    """In here, and in threads that inherit this context, urllib3 logs nothing; elsewhere it does as before."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)


# A filter goes by its own logger only, not by those below it.
for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(lambda _: not _quiet.get())
