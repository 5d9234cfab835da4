"""Gold standards and results: write, read, evaluate results against them, compare two.

In: neighbours, arrays, or files of them.  Out: files laid out as the published ones or as other tools want them,
recall, differences.  Row numbers begin at 0 in Python; each format counts in its own way.  `gold.py` says what a gold
standard is, `distances.py` which distance its numbers are, `certificate.py` how a file keeps what proves it.
`answers.py` takes what Python programs hold.  `hdf5.py`, `ibin.py`, `ivecs.py`, `parquet.py` and `npy.py` are the
formats, among which `formats.py` chooses; `writer.py` writes each of them whole, `rounding.py` gives distances another
type.  `match.py` brings two answers side by side; `recall.py`, `evaluation.py` and `compare.py` compare them, the last
also vectors.  May import `engine`, for what neighbours are, and those below.
"""

from gpuknn.gold.answers import Answer, as_gold, write_gold
from gpuknn.gold.compare import Comparison, compare
from gpuknn.gold.evaluation import Evaluation, evaluate
from gpuknn.gold.formats import holds_gold, read_gold, save_gold
from gpuknn.gold.gold import Gold
from gpuknn.gold.recall import Recall, recall
from gpuknn.vectors.compare import RowsComparison

__all__ = [
    "Answer",
    "Comparison",
    "Evaluation",
    "Gold",
    "Recall",
    "RowsComparison",
    "as_gold",
    "compare",
    "evaluate",
    "holds_gold",
    "read_gold",
    "recall",
    "save_gold",
    "write_gold",
]
