"""Which partial results are merged when: a tree of small merges, each of neighbours in the database."""

import math

FAN_IN = 8
"""Partial results that become one."""


class Tree:
    """The finished parts of one block of queries that are not yet in a larger one."""

    def __init__(self, shard_rows: int) -> None:
        self._shard_rows = shard_rows
        self._parts: dict[int, range] = {}

    def add(self, part: range) -> list[range]:
        """Add a part; FAN_IN neighbours of one size, taken out to be merged, where it completes as many."""
        self._parts[part.start] = part
        beside = self._beside(part)
        if len(beside) < FAN_IN:
            return []
        first = min(beside.index(part), len(beside) - FAN_IN)
        taken = beside[first : first + FAN_IN]
        for one in taken:
            del self._parts[one.start]
        return taken

    def take_rest(self) -> list[list[range]]:
        """When all shards are done: groups of neighbours to be merged, until no more than FAN_IN parts are left."""
        parts = self.parts()
        if len(parts) <= FAN_IN:
            return []
        groups = [parts[i : i + FAN_IN] for i in range(0, len(parts) - 1, FAN_IN)]
        self._parts = {part.start: part for part in parts[len(groups) * FAN_IN :]}
        return groups

    def parts(self) -> list[range]:
        """All parts, in order."""
        return [self._parts[start] for start in sorted(self._parts)]

    def _beside(self, part: range) -> list[range]:
        """The run of adjoining parts of the same level that holds `part`, in order."""
        level = self._level(part)
        run: list[range] = []
        for one in self.parts():
            if self._level(one) != level or (run and run[-1].stop != one.start):
                if part in run:
                    break
                run = []
            if self._level(one) == level:
                run.append(one)
        return run

    def _level(self, part: range) -> int:
        """How often its rows were merged, by their number: shards are not all of one length."""
        return max(0, round(math.log(len(part) / self._shard_rows, FAN_IN)))


def most_parts(shards: int, workers: int) -> int:
    """How many partial results there may be at once: of each level less than FAN_IN on either side of what is late."""
    levels = math.ceil(math.log(max(2, shards), FAN_IN)) + 1
    return min(shards, 2 * FAN_IN * levels + 2 * workers)
