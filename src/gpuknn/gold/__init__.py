"""Gold-standard files: write, read, evaluate results against them, compare two.

In: neighbours, or files of them.  Out: `.h5` files laid out as the published ones, recall, differences.  Row numbers
begin at 0 in Python and at 1 in the files.  May import `exact` (for what neighbours are) and `vectors`.
"""

from gpuknn.gold.compare import Comparison, compare_gold
from gpuknn.gold.file import GoldWriter, read_gold, read_result, write_gold
from gpuknn.gold.recall import Recall, recall, tie_aware_recall

__all__ = [
    "Comparison",
    "GoldWriter",
    "Recall",
    "compare_gold",
    "read_gold",
    "read_result",
    "recall",
    "tie_aware_recall",
    "write_gold",
]
