"""The LAION2B subsets of the SISAP challenges: which files belong to a subset, and where they come from.

In: a subset's name and a data folder.  Out: paths of its database, queries and gold standard.  May import `errors`.
"""

from gpuknn.laion.catalogue import SUBSETS, RemoteFile, gold_name, subset_files

__all__ = ["SUBSETS", "RemoteFile", "gold_name", "subset_files"]
