"""Lists of pages, whichever vendor's: that they come to an end, and what may be different for a smaller page."""

from __future__ import annotations

from collections.abc import Callable

from bg_pipelines.errors import ErrorType, IntegrationError

EMPTY_PAGES = 100
"""So many in a row are no list any more."""
FEWER = 5
"""A page that a vendor fails at is asked for with so many times fewer rows, down to one."""

# A connection that never came about, a throttle or a refusal is not, nor the cost of a single row, which is that of each.
_OF_SIZE = {
    ErrorType.SERVER_ERROR,
    ErrorType.TIMEOUT,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.CONNECTION,
}


def may_be_of_size(error: IntegrationError) -> bool:
    """Whether fewer rows may be answered where so many were not."""
    return error.error_type in _OF_SIZE and error.details.get("sent") is not False


class Cursors:
    """The cursors of one list, which must come to an end: none comes twice, and not all pages are empty.

    `malformed` makes the vendor's error of a sentence.
    """

    def __init__(self, vendor: str, malformed: Callable[[str], IntegrationError], first: str | None) -> None:
        self._vendor = vendor
        self._malformed = malformed
        self._seen = {first}
        self._empty = 0

    def note(self, cursor: str | None, *, is_empty: bool) -> None:
        """Raises IntegrationError (malformed_response)."""
        if cursor is not None and cursor in self._seen:
            raise self._malformed(f"{self._vendor} repeats a page's cursor: the end would never be reached")
        self._seen.add(cursor)
        self._empty = self._empty + 1 if is_empty else 0
        if self._empty > EMPTY_PAGES:
            raise self._malformed(
                f"{self._vendor}'s list goes on without rows: the end would never be reached"
            )
