"""The journal of a bulk run: SQLite beside the results."""
