"""One open session: submissions, limits, status checks, tasks and results."""
