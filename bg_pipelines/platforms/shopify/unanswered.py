"""What Shopify fails at: pages of so many rows, which then have fewer, and single rows, which are then left out.

A row that is never answered is known by its id, for Shopify still tells ids. It is rejected as soon as another row shows
that it is not Shopify that is failing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bg_pipelines.errors import IntegrationError
from bg_pipelines.platforms.paging import FEWER

LARGER_AFTER = 20
"""After so many pages of a size that Shopify manages, a larger one is tried again."""

UNANSWERED = (
    "the row: Shopify fails whenever it is asked for it, and tells its id alone; ask Shopify's support, it loads once it is "
    "answered"
)
UNANSWERED_IN_A_ROW = 3
"""Where Shopify fails at more single rows than these, and at none in between does not, it fails at all of them."""


class Unanswered(dict[str, Any]):
    """In a row's place: its id, where Shopify fails whenever it is asked for the row itself. `error` is how."""

    def __init__(self, node: dict[str, Any], error: IntegrationError) -> None:
        super().__init__(node)
        self.error = error


class Held:
    """Answers of rows that Shopify fails at, until another row shows that it does not fail at all of them.

    Nothing of them is kept before, or a failing vendor would have its rows rejected one by one, and each be progress.
    `manages` tells whether it answers any row.
    """

    def __init__(self, manages: Callable[[], bool]) -> None:
        self._manages = manages
        self._answers: list[Any] = []
        self._error: IntegrationError | None = None

    def then(self, answer: Any, nodes: Sequence[Any]) -> list[Any]:
        """What may go on, in its order. Raises IntegrationError where so many in a row are unanswered."""
        unanswered = [node for node in nodes if type(node) is Unanswered]
        if unanswered and len(unanswered) == len(nodes):
            self._answers.append(answer)
            self._error = unanswered[-1].error
            if len(self._answers) > UNANSWERED_IN_A_ROW:
                raise self._error
            return []
        return [*self._all(), answer] if nodes else [answer]

    def end(self) -> list[Any]:
        if self._error is not None and self._answers and not self._manages():
            raise self._error
        return self._all()

    def _all(self) -> list[Any]:
        held, self._answers = self._answers, []
        return held


class Sizes:
    """How many rows of a document are asked for at once: what the cost limit allows, and what Shopify manages."""

    def __init__(self) -> None:
        self._allowed: dict[str, int] = {}
        self._managed: dict[str, tuple[int, int]] = {}

    def rows(self, document: str, most: int) -> int:
        managed, _ = self._managed.get(document, (most, 0))
        return min(most, managed, self._allowed.get(document, most))

    def too_costly(self, document: str, rows: int) -> None:
        self._allowed[document] = max(1, rows // 2)

    def failed(self, document: str, rows: int) -> None:
        self._managed[document] = (max(1, rows // FEWER), 0)

    def passed(self, document: str) -> None:
        if document in self._managed:
            rows, times = self._managed[document]
            self._managed[document] = (rows * FEWER, 0) if times + 1 == LARGER_AFTER else (rows, times + 1)

    def found(self, document: str) -> None:
        """The one row is known; the others are as many as ever."""
        self._managed.pop(document, None)
