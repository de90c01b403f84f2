"""Decisions about time: when to check a task, retry a call or send a request. Pure: no I/O, clock or randomness."""
