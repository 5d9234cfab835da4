"""`python -m gpuknn`: the same as the command `gpuknn`."""

import sys

from gpuknn.cli.main import main

if __name__ == "__main__":  # not in the processes that a job starts
    sys.exit(main())
