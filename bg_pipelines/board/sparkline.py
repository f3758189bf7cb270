"""A trend as a line of the height of a text, with what it shows in words for those who do not see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from bg_pipelines.operations.trends import Trend

WIDTH, HEIGHT = 96, 20


def sparklines(trend: Trend, what: str, shown: Callable[[float], str]) -> Markup:
    """Two lines, of the last hour and of the last day; `shown` writes a value as people read it."""
    return Markup("").join(
        _line(values, f"{what}, {span}", shown)
        for values, span in ((trend.hour, "last hour"), (trend.day, "last day"))
    )


def _line(values: Sequence[float | None], what: str, shown: Callable[[float], str]) -> Markup:
    known = [value for value in values if value is not None]
    if not known:
        words = f"{what}: not known"
    elif min(known) == max(known):
        words = f"{what}: {shown(known[-1])} all the time"
    else:
        words = f"{what}: {shown(min(known))} to {shown(max(known))}, lately {shown(known[-1])}"
    return Markup(
        '<svg class="spark" role="img" width="{0}" height="{1}" viewBox="0 0 {0} {1}" aria-label="{2}">'
        '<path d="{3}" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round"/></svg>'
    ).format(WIDTH, HEIGHT, words, _path(values, max(known, default=0.0)))


def _path(values: Sequence[float | None], most: float) -> str:
    """From nought up; a gap where nobody looked, a dot where there is but one value."""
    step = (WIDTH - 2) / max(1, len(values) - 1)
    parts = []
    pen_is_down = False
    for place, value in enumerate(values):
        if value is None:
            pen_is_down = False
            continue
        y = HEIGHT - 2 - (HEIGHT - 4) * (value / most if most else 0.0)
        x = 1 + place * step
        parts.append(f"L{x:.1f} {y:.1f}" if pen_is_down else f"M{x:.1f} {y:.1f}h.1")
        pen_is_down = True
    return "".join(parts)
