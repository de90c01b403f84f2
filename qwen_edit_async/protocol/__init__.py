"""The dialects of the service: they build each call and read each reply. Pure."""
