import pytest

from tests.crash.cluster import Cluster


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    cluster = item.funcargs.get("cluster") if hasattr(item, "funcargs") else None
    if cluster is not None and call.excinfo is not None:
        outcome.get_result().sections.append(("processes", cluster.logs()))


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.close()
