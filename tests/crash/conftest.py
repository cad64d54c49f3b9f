import pytest

from tests.crash.cluster import Cluster


@pytest.fixture
def cluster(tmp_path, running_stacks):
    made = Cluster(tmp_path)
    running_stacks.append(made)
    yield made
    running_stacks.remove(made)
    made.close()
