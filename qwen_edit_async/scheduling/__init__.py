"""Decisions about time: when to check, what to repeat, how much to submit. Pure: no I/O, no clock, no randomness."""
