"""People: one person across stores, matched by verified e-mail and phone (docs/people.md).

keys        what may tell that two customers are one person, and what never does
grouping    who is one person, given that: plain functions
matching    customers -> people: what has changed since the last time, in batches
decisions   what people of ours decide: join, split, undo
explaining  why a customer is the person it is
history     orders, spend and last visit of a person; reports

people.match(database)                                            after each customer_sync
people.join(database, ("harbor", "17"), ("quay", "4"), by="jane")
people.why(database, "harbor", "17")
"""

from bg_pipelines.people.decisions import Decision, join, list_decisions, split, undo
from bg_pipelines.people.explaining import Link, customers_of, find_person, why
from bg_pipelines.people.history import Order, Ranked, history, orders_of, ranking, report, totals
from bg_pipelines.people.matching import Matched, match, match_store, rematch

__all__ = [
    "Decision",
    "Link",
    "Matched",
    "Order",
    "Ranked",
    "customers_of",
    "find_person",
    "history",
    "join",
    "list_decisions",
    "match",
    "match_store",
    "orders_of",
    "ranking",
    "rematch",
    "report",
    "split",
    "totals",
    "undo",
    "why",
]
