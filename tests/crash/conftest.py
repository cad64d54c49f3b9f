import pytest

from tests.support.crash_stack import CrashStack


@pytest.fixture
def cluster(tmp_path, running_stacks, kind):
    made = CrashStack(tmp_path, kind)
    running_stacks.append(made)
    yield made
    running_stacks.remove(made)
    made.close()
