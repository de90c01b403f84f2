"""The dialects of the service: what to send and what each reply means. Pure."""
