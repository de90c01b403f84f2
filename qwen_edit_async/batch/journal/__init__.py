"""The journal of a bulk run or a hub, in a SQLite file."""
