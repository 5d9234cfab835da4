"""The Numba kernels of the CPU device: the loops that NumPy has not, compiled for this processor.

Every kernel is single-threaded and releases the GIL: the device runs one per core (`device.py` says why).  Files:
`kernel.py` how they are compiled; `files.py` and `place.py` how and where they are kept; `sums.py` norms and distances
in the documented order, widening; `candidates.py` selection and what is kept; `coarse.py` the same for sums of 8-bit
integers; `sketches.py` differing bits; `merge.py` two answers made one; `projections.py` rows of unit length, and the
bits of sketches; `axes.py` the eigenvectors of a covariance.

What is compiled is kept for the next process under a name that tells the contents of all files of this folder.  So a
kernel takes what lies elsewhere as an argument, and calls nothing of gpuknn's but what is in this folder.
"""

from gpuknn.engine.cpu.kernels.axes import turn_pairs
from gpuknn.engine.cpu.kernels.candidates import cut, keep, select
from gpuknn.engine.cpu.kernels.coarse import quantise, select_coarse
from gpuknn.engine.cpu.kernels.merge import merge_two
from gpuknn.engine.cpu.kernels.projections import compare_references, unit_halves, unit_rows
from gpuknn.engine.cpu.kernels.sketches import hamming_scores
from gpuknn.engine.cpu.kernels.sums import COSINE, IP, L2, measure, squared_norms, widen

__all__ = [
    "COSINE",
    "IP",
    "L2",
    "compare_references",
    "cut",
    "hamming_scores",
    "keep",
    "measure",
    "merge_two",
    "quantise",
    "select",
    "select_coarse",
    "squared_norms",
    "turn_pairs",
    "unit_halves",
    "unit_rows",
    "widen",
]
