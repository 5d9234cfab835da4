"""The command line: one module per command, which parses, calls and shows.  No logic lives here."""
