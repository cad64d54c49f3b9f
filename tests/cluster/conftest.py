"""End to end on a real cluster: dispatchers are processes here, executors are pods
there, one Redis is reached by both.

Nothing of it runs unless KUBECONFIG and CLUSTER_IMAGE are set: a developer's own cluster is never
used by accident.

    KUBECONFIG               the cluster
    CLUSTER_IMAGE            an image with the executor and examples/cluster
                             (examples/cluster/Dockerfile)
    CLUSTER_RESOURCE         an extended resource that a node advertises, at least once
                             (default: nvidia.com/gpu)
    CLUSTER_RUNTIME_HANDLER  a handler of RuntimeClasses that nodes have (default: runc)
    CLUSTER_NAMESPACE        the namespace (default: a new one that enforces Pod Security
                             "restricted", deleted afterwards)
    CLUSTER_REDIS_URL        a Redis as pods reach it, its database empty
                             (default: a pod, reached by port-forward)
    CLUSTER_REDIS_URL_HERE   the same as this machine reaches it (default: the same)
    CLUSTER_REDIS_IMAGE      the image of that pod (default: redis:7.4-alpine)
    CLUSTER_SERVICE_ACCOUNT  one that has the Role of a dispatcher (default: made, with its Role)
    CLUSTER_PATIENCE         seconds that anything may take (default: 120)

Settings of Kubernetes mode that the tests do not set themselves apply as always:
GPUQUEUE_POD_TEMPLATE for image pull secrets, GPU_IMAGE_PULL_POLICY, GPU_NODE_SELECTOR_KEY and
GPU_NODE_SELECTOR_VALUE.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster.real_cluster import PATIENCE, RealCluster

NEEDED = ("KUBECONFIG", "CLUSTER_IMAGE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all of it out where no cluster is named."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:  # of all folders
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.timeout(4 * PATIENCE))
            if missing:
                told = (
                    f"for a real cluster: {' and '.join(missing)} not set (see"
                    " tests/cluster/conftest.py)"
                )
                item.add_marker(pytest.mark.skip(reason=told))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """One namespace, one dispatcher and one of the application's own workers for all."""
    made = RealCluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.dispatcher("first")
        made.cpu_worker("cpu")
        yield made
    finally:
        made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of this machine wrote last when a test fails."""
    report = yield
    made = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and made is not None:
        for worker in made.workers:
            report.sections.append((f"log of {worker.name()}", worker.logs()[-4000:]))
    return report
