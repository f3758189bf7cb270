"""Grouping customers into persons by what they have in common: pure functions, independent of the order of their
input.

`group` says which customers are one person and why; `settle_ids` which id each person has. Neither asks a database.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from bg_pipelines.people.keys import MOST

CustomerId = tuple[int, str]
"""Store's id and the customer's id there."""


class Member(NamedTuple):
    """A customer as it was last matched. `email` and `phone` are keys; a shared one matches nobody."""

    store_id: int
    external_id: str
    number: int
    person_id: int
    email: bytes | None = None
    email_shared: bool = False
    phone: bytes | None = None
    phone_shared: bool = False
    matched_by: str = "first"
    with_store_id: int | None = None
    with_external_id: str | None = None
    lost_keys: bool = False
    is_new: bool = False

    @property
    def id(self) -> CustomerId:
        return self.store_id, self.external_id


class Decided(NamedTuple):
    """A decision about two customers: `together`, or `apart` and `other` leaves."""

    kind: str
    customer: CustomerId
    other: CustomerId


class Why(NamedTuple):
    """What a customer has in common with the one `to` whom it was matched."""

    by: str
    to: CustomerId | None = None


FIRST = Why("first")


class _Sets:
    """Disjoint sets of 0 … n-1; each is known by its lowest member."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def find(self, i: int) -> int:
        parent = self.parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def unite(self, i: int, j: int) -> int:
        i, j = sorted((self.find(i), self.find(j)))
        self.parent[j] = i
        return i


def unsettled(members: Sequence[Member], decisions: Iterable[Decided] = ()) -> list[Member]:
    """Those who may have to do with one another, or had: all others are persons of their own, as they were."""
    decided = {customer for each in decisions for customer in (each.customer, each.other)}
    emails = Counter(member[4] for member in members if not member[5])
    phones = Counter(member[6] for member in members if not member[7])
    people = Counter(member[3] for member in members)
    return [
        member
        for member in members
        if (emails[member[4]] > 1 and member[4] is not None)
        or (phones[member[6]] > 1 and member[6] is not None)
        or people[member[3]] > 1
        or member[2] != member[3]
        or member[8] != "first"
        or member[:2] in decided
    ]


def group(members: Sequence[Member], decisions: Iterable[Decided] = ()) -> list[dict[CustomerId, Why]]:
    """The persons among these customers, each as its customers and why they are in it.

    Strongest first: what people joined, then e-mails, then phones; what people split is never one person again.
    Where two who were split could both be joined with others, the one who leaves (`Decided.other`) comes last. A
    phone is not used where it, or together with other phones, would make one person of two customers of one store
    with different verified e-mails, or of more than MOST customers.
    """
    return _Grouping(members, decisions).persons()


class _Grouping:
    def __init__(self, members: Sequence[Member], decisions: Iterable[Decided]) -> None:
        there = {member.id for member in members}
        held = [d for d in decisions if d.customer in there and d.other in there]
        leaving = _leaving(members, held)
        self.members = sorted(members, key=lambda m: (m.id in leaving, m.id))
        place = {member.id: i for i, member in enumerate(self.members)}
        self.sets = _Sets(len(self.members))
        self.enemies: dict[int, set[int]] = defaultdict(set)
        self.joined: dict[int, set[int]] = defaultdict(set)
        for decided in held:
            i, j = place[decided.customer], place[decided.other]
            book = self.enemies if decided.kind == "apart" else self.joined
            book[i].add(j)
            book[j].add(i)
        self.emails = self._held("email")
        self.phones = self._held("phone")

    def _held(self, kind: str) -> dict[bytes, list[int]]:
        """The customers of each key that may join; in order of the first one."""
        holders: dict[bytes, list[int]] = defaultdict(list)
        for i, member in enumerate(self.members):
            key, shared = (
                (member.email, member.email_shared)
                if kind == "email"
                else (member.phone, member.phone_shared)
            )
            if key is not None and not shared:
                holders[key].append(i)
        return {key: indices for key, indices in holders.items() if len(indices) > 1}

    def persons(self) -> list[dict[CustomerId, Why]]:
        for i in sorted(self.joined):
            for j in sorted(self.joined[i]):
                self._unite(i, j)
        for holders in self.emails.values():
            self._unite_all(holders)
        self.phones = self._sound_phones()
        for holders in self.phones.values():
            self._unite_all(holders)
        groups: dict[int, list[int]] = defaultdict(list)
        for i in range(len(self.members)):
            groups[self.sets.find(i)].append(i)
        return [self._explained(indices) for indices in groups.values()]

    def _unite(self, i: int, j: int) -> bool:
        """Make one of two sets unless somebody was split; says whether they are one."""
        i, j = self.sets.find(i), self.sets.find(j)
        if i == j:
            return True
        if any(self.sets.find(enemy) == j for enemy in self.enemies.get(i, ())):
            return False
        root = self.sets.unite(i, j)
        enemies = self.enemies.pop(i, set()) | self.enemies.pop(j, set())
        if enemies:
            self.enemies[root] = enemies
        return True

    def _unite_all(self, holders: list[int]) -> None:
        heads: list[int] = []
        for i in holders:
            if not any(self._unite(head, i) for head in heads):
                heads.append(i)

    def _sound_phones(self) -> dict[bytes, list[int]]:
        """The phones that may join: no doubtful one, and none of a chain of phones that is doubtful as a whole.

        A chain is judged as a whole, for to use it up to some point would be to pick a winner among equals.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        touched = {self.sets.find(i) for holders in self.phones.values() for i in holders}
        for i in range(len(self.members)):
            root = self.sets.find(i)
            if root in touched:
                groups[root].append(i)
        sound = {
            key: holders
            for key, holders in self.phones.items()
            if not self._doubtful({self.sets.find(i) for i in holders}, groups)
        }
        chains = _Sets(len(self.members))
        for holders in sound.values():
            for i in holders:
                chains.unite(self.sets.find(holders[0]), self.sets.find(i))
        chained: dict[int, set[int]] = defaultdict(set)
        for root in touched:
            chained[chains.find(root)].add(root)
        doubtful = {chain for chain, roots in chained.items() if self._doubtful(roots, groups)}
        return {
            key: holders
            for key, holders in sound.items()
            if chains.find(self.sets.find(holders[0])) not in doubtful
        }

    def _doubtful(self, roots: Collection[int], groups: dict[int, list[int]]) -> bool:
        """Whether these groups must not be one: too many customers, or two of one store with different e-mails."""
        if len(roots) == 1:
            return False
        if sum(len(groups[root]) for root in roots) > MOST:
            return True
        emails: dict[int, set[bytes]] = defaultdict(set)
        known_by: dict[int, set[int]] = defaultdict(set)
        for root in roots:
            for i in groups[root]:
                member = self.members[i]
                if member.email is not None:
                    emails[member.store_id].add(member.email)
                    known_by[member.store_id].add(root)
        return any(len(emails[store]) > 1 and len(known_by[store]) > 1 for store in emails)

    def _explained(self, indices: list[int]) -> dict[CustomerId, Why]:
        """A person's customers, each with the one before it on the shortest way from the first."""
        first = min(indices, key=lambda i: self.members[i].id)
        why = {first: FIRST}
        if len(indices) > 1:
            ours = set(indices)
            spent: set[tuple[str, bytes]] = set()
            way = [first]
            for i in way:
                for by, mates in self._mates(i, spent):
                    for mate in sorted(mates & ours, key=lambda j: self.members[j].id):
                        if mate not in why:
                            why[mate] = Why(by, self.members[i].id)
                            way.append(mate)
        return {self.members[i].id: reason for i, reason in why.items()}

    def _mates(self, i: int, spent: set[tuple[str, bytes]]) -> Iterator[tuple[str, set[int]]]:
        member = self.members[i]
        yield "decision", self.joined.get(i, set())
        for by, key, held in (("email", member.email, self.emails), ("phone", member.phone, self.phones)):
            if key is not None and (by, key) not in spent and key in held:
                spent.add((by, key))
                yield by, set(held[key])


def _leaving(members: Sequence[Member], decisions: Sequence[Decided]) -> set[CustomerId]:
    """Who leaves somebody with whom something connects them; of others it makes no difference that they were split."""
    if not any(decided.kind == "apart" for decided in decisions):
        return set()
    connected = _Sets(len(members))
    place = {member.id: i for i, member in enumerate(members)}
    first: dict[bytes | tuple[bytes], int] = {}
    for i, member in enumerate(members):
        if member.email is not None and not member.email_shared:
            connected.unite(i, first.setdefault(member.email, i))
        if member.phone is not None and not member.phone_shared:
            connected.unite(i, first.setdefault((member.phone,), i))
    for decided in decisions:
        if decided.kind == "together":
            connected.unite(place[decided.customer], place[decided.other])
    return {
        d.other
        for d in decisions
        if d.kind == "apart" and connected.find(place[d.customer]) == connected.find(place[d.other])
    }


def settle_ids(
    members: Sequence[Member], persons: Sequence[Collection[CustomerId]]
) -> dict[CustomerId, tuple[int, int]]:
    """(number, person's id) of each customer, given which of them are one person.

    A person's id is the lowest number among its customers. So when two become one the older id stays, when one
    splits the part with the oldest customer keeps it, and undoing such a join or split restores the earlier ids. When
    the one whose number it is leaves altogether (deleted, without keys, or now in an older person), its number is handed to
    the oldest of those who stay, so that the person keeps its id.
    """
    by_id = {member.id: member for member in members}
    group_of = {customer: i for i, person in enumerate(persons) for customer in person}
    numbers = {member.id: member.number for member in members}
    lowest = [min(numbers[customer] for customer in person) for person in persons]
    was: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        was[member.person_id].append(member)
    # The oldest first: a person who is handed an older number no longer has the one it was known by, which then goes on.
    for person_id, old in sorted(was.items()):
        lead = next((member for member in old if member.number == person_id), None)
        if lead is not None:
            there = group_of[lead.id]
            alone = lead.lost_keys and len(persons[there]) == 1
            if lowest[there] == person_id and not alone:
                continue
        heirs = [
            member
            for member in old
            if member is not lead
            and (lead is None or group_of[member.id] != group_of[lead.id])
            and lowest[group_of[member.id]] > person_id
        ]
        if heirs:
            heir = min(heirs, key=lambda member: member.number)
            numbers[heir.id] = lowest[group_of[heir.id]] = person_id
            if lead is not None:
                numbers[lead.id] = heir.number
    ids = [min(numbers[customer] for customer in person) for person in persons]
    return {customer: (numbers[customer], ids[group_of[customer]]) for customer in by_id}
