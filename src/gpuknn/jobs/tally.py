"""How far a job is, counted from what its workers tell: each piece once, by the last that was heard of it."""

from dataclasses import dataclass, field

from gpuknn.progress import Event


@dataclass
class Tally:
    """The work done so far; pieces are known by the queries and the rows that they begin with."""

    work: dict[tuple[int, int], Event] = field(default_factory=dict)
    """The latest event of each piece."""
    rows: int = 0
    """Rows done; those of several passes count each time."""

    def hear(self, event: Event) -> None:
        """Take in an event; of those that say nothing of rows nothing is counted."""
        if event["event"] in ("progress", "shard"):
            piece = event["queries"], event["shard"]
            before = self.work.get(piece)
            if before and before["event"] == "shard" and event["event"] == "progress":
                return  # of a worker that was believed dead
            self.work[piece] = event
            self.rows += event["rows"] - (before["rows"] if before else 0)
        elif event["event"] == "damaged":
            start, stop = event["rows"]
            for piece in [piece for piece in self.work if piece[0] == event["queries"] and start <= piece[1] < stop]:
                self.rows -= self.work.pop(piece)["rows"]
