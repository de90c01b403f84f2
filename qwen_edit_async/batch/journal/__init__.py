"""The journal of a bulk run: a SQLite file beside the results."""
