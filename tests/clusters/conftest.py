"""Tests on a Ray cluster on this machine. ``nox -s ray`` runs them. Without Ray, they are not collected."""

from __future__ import annotations

import importlib.util
import os

import pytest

# Set these before Ray and Daft are imported. The second variable keeps a cluster on loopback.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "DAFT_ANALYTICS_ENABLED": "0"}

pytest.register_assert_rewrite("chaos")

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def service():
    """Run an emulator in a process, and return the environment variables for its address and key."""
    import chaos  # noqa: PLC0415  # it needs Ray

    with chaos.emulator() as service:
        yield service


@pytest.fixture(scope="session")
def logs(service):
    """Run a cluster with the service's environment variables, and return the folder of its logs."""
    import chaos  # noqa: PLC0415  # it needs Ray

    with chaos.cluster(service) as folder:
        yield folder


@pytest.fixture
def hub(logs, tmp_path):
    import chaos  # noqa: PLC0415  # it needs Ray

    with chaos.running_hub(tmp_path / "job") as hub:
        yield hub
