"""The protocols of the service: each builds calls and reads replies. Pure: no I/O, no clock."""
