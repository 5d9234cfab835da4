"""Gold standards and results: write, read, evaluate results against them, compare two.

In: neighbours, or files of them.  Out: files laid out as the published ones or as other tools want them, recall,
differences.  Row numbers begin at 0 in Python; each format counts in its own way.  `gold.py` says what a gold standard
is, `distances.py` which distance its numbers are.  `hdf5.py`, `ibin.py`, `ivecs.py`, `parquet.py` and `npy.py` are the
formats, among which `formats.py` chooses; `writer.py` writes each of them whole, `rounding.py` gives distances another
type.  `match.py` brings two answers side by side, `recall.py` and `compare.py` compare them.  May import `engine`, for
what neighbours are, and those below.
"""

from gpuknn.gold.compare import Comparison, compare_gold
from gpuknn.gold.formats import holds_gold, read_gold, save_gold, write_gold
from gpuknn.gold.gold import Gold
from gpuknn.gold.match import matched
from gpuknn.gold.recall import Recall, recall, recall_at

__all__ = [
    "Comparison",
    "Gold",
    "Recall",
    "compare_gold",
    "holds_gold",
    "matched",
    "read_gold",
    "recall",
    "recall_at",
    "save_gold",
    "write_gold",
]
