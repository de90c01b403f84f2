"""The package's only HTTP client: calls to the API, streamed bodies, downloads."""
