"""The datasets of challenges: which files they have, what of them is here, which of them make up a subset.

In: a subset's name and a data folder.  Out: paths of its database, queries and gold standard.  May import `storage` and
`errors`; `jobs.download` is what fetches files.

    catalogue.py, catalogue.toml    the files;  select.py   those that are asked for
    held.py                         what a data folder holds of them
    subsets.py                      a subset's database and queries; the sample that is shipped
"""

from gpuknn.laion.subsets import SAMPLE, subset_files

__all__ = ["SAMPLE", "subset_files"]
