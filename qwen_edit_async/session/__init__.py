"""One open session: submissions, the gate, the poller, tasks and results."""
