"""Two answers side by side: the same queries line by line, ids that mean the same rows."""

from dataclasses import dataclass, replace

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.gold import Gold


@dataclass(frozen=True)
class Matched:
    """Two answers to the same queries."""

    a: Gold
    b: Gold
    by: str
    """What `ids` of both are now, in words."""


ROWS = "row numbers"
NAMES = "the ids that the database's file gives"


def matched(a: Gold, b: Gold, where: tuple[str, str]) -> Matched:
    """Bring two answers side by side; `where` they come from, for messages.

    Queries are matched by their ids if both files give them, else by their order.  Rows are matched by the ids that the
    database's file gives if both files tell these, else by their numbers.  Raises InputError if the queries differ.
    """
    a, b = _same_queries(a, b, where)
    named = [gold.own_ids is not None for gold in (a, b)]
    if any(named) and all(known or not gold.are_rows for known, gold in zip(named, (a, b), strict=True)):
        return Matched(_named(a), _named(b), NAMES)
    return Matched(replace(a, own_ids=None), replace(b, own_ids=None), ROWS)


def _named(gold: Gold) -> Gold:
    return gold if gold.own_ids is None else replace(gold, ids=gold.own_ids, own_ids=None)


def _same_queries(a: Gold, b: Gold, where: tuple[str, str]) -> tuple[Gold, Gold]:
    if len(a) != len(b):
        raise InputError(f"{where[0]} answers {len(a):,} queries, {where[1]} answers {len(b):,}")
    if a.query_ids is not None and b.query_ids is not None:
        orders = np.argsort(a.query_ids, kind="stable"), np.argsort(b.query_ids, kind="stable")
        mine, theirs = a.query_ids[orders[0]], b.query_ids[orders[1]]
        differ = np.flatnonzero(mine != theirs)
        if len(differ):
            alone = min(mine[differ[0]], theirs[differ[0]])
            has, lacks = where if alone in mine else where[::-1]
            raise InputError(f"{has} answers a query of the id {alone}, {lacks} does not")
        return a.queries(orders[0]), b.queries(orders[1])
    for gold, name, other in ((a, *where), (b, *where[::-1])):
        if not gold.in_order:
            raise InputError(
                f"{name}: its lines are not in the order of the queries' ids, and {other} does not tell these ids; "
                f"sort the lines of {name} by id, if the queries are in that order"
            )
    return a, b
