"""The service's dialects: what to send, and what a reply means. Pure."""
