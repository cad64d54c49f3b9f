import pytest

from tests.crash.cluster import Cluster


@pytest.fixture
def cluster(tmp_path, running_stacks, kind):
    made = Cluster(tmp_path, kind)
    running_stacks.append(made)
    yield made
    running_stacks.remove(made)
    made.close()
