"""`python -m gpuknn`: the same as the command `gpuknn`."""

from gpuknn.cli.main import command

if __name__ == "__main__":  # not in the processes that a job starts
    command()
