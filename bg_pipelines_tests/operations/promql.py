"""As much of PromQL as our rules use, on samples of one moment: by it `make test` tries rules without a Prometheus.

promtool tries the same rules over time (deploy/prometheus/rules_test.yaml), where it is installed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]


class Selector(NamedTuple):
    """A metric that an expression names, with the values or patterns of its labels."""

    metric: str
    labels: Mapping[str, str]


def selectors(node: Any) -> Iterator[Selector]:
    """Every metric that the expression names."""
    match type(node).__name__:
        case "VectorSelector":
            yield Selector(node.name, {m.name: m.value for m in node.matchers.matchers})
        case "MatrixSelector":
            yield from selectors(node.vector_selector)
        case "BinaryExpr":
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case "Call":
            for argument in node.args:
                yield from selectors(argument)
        case "AggregateExpr" | "ParenExpr":
            yield from selectors(node.expr)


def grouped_by(node: Any) -> set[str]:
    """The labels that the expression adds up by."""
    found: set[str] = set()
    match type(node).__name__:
        case "BinaryExpr":
            found = grouped_by(node.lhs) | grouped_by(node.rhs)
        case "Call":
            found = set().union(*(grouped_by(argument) for argument in node.args))
        case "AggregateExpr":
            found = grouped_by(node.expr) | set(node.modifier.labels if node.modifier else ())
        case "ParenExpr":
            found = grouped_by(node.expr)
    return found


class Moment:
    """Samples at one time; `rates` are what counters grew a second, by name and labels."""

    def __init__(self, text: str, at: float, rates: Mapping[str, Vector] | None = None) -> None:
        self.at = at
        self.rates = rates or {}
        self.samples: dict[str, Vector] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples[sample.name][frozenset(sample.labels.items())] = sample.value

    def evaluate(self, expression: str) -> Vector:
        """What the expression finds: an alert for each line."""
        found = self._of(promql_parser.parse(expression))
        assert isinstance(found, dict)
        return found

    def _of(self, node: Any) -> Vector | float:
        match type(node).__name__:
            case "NumberLiteral":
                return float(node.val)
            case "ParenExpr":
                return self._of(node.expr)
            case "VectorSelector":
                return _selected(self.samples.get(node.name, {}), node)
            case "Call":
                return self._call(node.func.name, node.args)
            case "AggregateExpr":
                return self._sum(node)
            case "BinaryExpr":
                return self._binary(str(node.op), self._of(node.lhs), self._of(node.rhs))
        raise NotImplementedError(type(node).__name__)

    def _call(self, name: str, arguments: Sequence[Any]) -> Vector | float:
        if name == "time":
            return self.at
        if name == "rate":
            inner = arguments[0].vector_selector
            return _selected(self.rates.get(inner.name, {}), inner)
        values = [self._of(argument) for argument in arguments]
        if name == "absent":
            return {} if values[0] else {frozenset(): 1.0}
        assert name == "histogram_quantile", name
        share, buckets = values
        assert isinstance(share, float)
        assert isinstance(buckets, dict)
        return _quantile(share, buckets)

    def _sum(self, node: Any) -> Vector:
        assert str(node.op) == "sum"
        inner = self._of(node.expr)
        assert isinstance(inner, dict)
        kept = set(node.modifier.labels) if node.modifier else set()
        sums: Vector = defaultdict(float)
        for labels, value in inner.items():
            sums[frozenset(pair for pair in labels if pair[0] in kept)] += value
        return dict(sums)

    @staticmethod
    def _binary(operator: str, left: Vector | float, right: Vector | float) -> Vector | float:
        if operator == "unless":
            assert isinstance(left, dict)
            assert isinstance(right, dict)
            return {labels: value for labels, value in left.items() if labels not in right}
        compare: Mapping[str, Callable[[float, float], bool]] = {
            ">": lambda a, b: a > b,
            "<": lambda a, b: a < b,
            "==": lambda a, b: a == b,
        }
        compute: Mapping[str, Callable[[float, float], float]] = {
            "-": lambda a, b: a - b,
            "/": lambda a, b: a / b if b else float("nan"),
        }
        if operator in compare:
            assert isinstance(left, dict)
            assert isinstance(right, float), "our rules compare with numbers"
            return {labels: value for labels, value in left.items() if compare[operator](value, right)}
        work = compute[operator]
        if isinstance(left, float):
            assert isinstance(right, dict)
            return {labels: work(left, value) for labels, value in right.items()}
        assert isinstance(right, dict)
        return {labels: work(value, right[labels]) for labels, value in left.items() if labels in right}


def _selected(samples: Vector, node: Any) -> Vector:
    def fits(labels: Mapping[str, str]) -> bool:
        tests = {
            "MatchOp.Equal": lambda have, want: have == want,
            "MatchOp.NotEqual": lambda have, want: have != want,
            "MatchOp.Re": lambda have, want: re.fullmatch(want, have) is not None,
        }
        return all(tests[str(m.op)](labels.get(m.name, ""), m.value) for m in node.matchers.matchers)

    return {labels: value for labels, value in samples.items() if fits(dict(labels))}


def _quantile(share: float, buckets: Vector) -> Vector:
    grouped: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, count in buckets.items():
        rest = frozenset(pair for pair in labels if pair[0] != "le")
        grouped[rest].append((float(dict(labels)["le"]), count))
    found: Vector = {}
    for labels, counts in grouped.items():
        counts.sort()
        total = counts[-1][1]
        if not total:
            continue
        below = under = 0.0
        for bound, count in counts:
            if count >= share * total:
                wide = bound if bound != float("inf") else below
                found[labels] = below + (wide - below) * (share * total - under) / max(count - under, 1e-9)
                break
            below, under = bound, count
    return found
