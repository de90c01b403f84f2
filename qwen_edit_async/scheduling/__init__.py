"""Decisions about time: when to check a task, what to retry, how much to submit. Pure: no I/O, clock or randomness."""
