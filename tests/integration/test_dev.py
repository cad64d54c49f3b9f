"""`gpuqueue dev`: what it starts, and that it leaves nothing behind."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.dev_command import alive, end, executors, family, start_dev
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration


def test_ctrl_c_ends_dev_with_flower_redis_and_running_jobs(tmp_path: Path) -> None:
    dev = start_dev(tmp_path / "dev", "--port", "0")
    try:
        job_id = dev.send("hold", str(tmp_path / "never"), queue="gpu.t4.shared")
        dev.reaches(job_id, "running")
        flower = re.search(r"Flower +(http://\S+)", dev.log.read_text())
        assert flower
        with urlopen(flower.group(1) + "/api/workers", timeout=10) as answer:
            assert answer.status == 200
        processes = family(dev)
        names = " ".join(" ".join(each.cmdline()) for each in processes)
        assert all(part in names for part in ("gpuqueue worker", "flower", "gpuqueue.runner"))
        assert len(executors(dev)) == 1
        assert re.search("(redis|valkey)-server", names)
        assert end(dev) == 0
    finally:
        dev.process.kill()
    assert alive(processes) == []
    log = dev.log.read_text()
    assert "Traceback" not in log
    assert "1 running jobs" in log


def test_a_killed_dev_leaves_nothing_behind(tmp_path: Path) -> None:
    dev = start_dev(tmp_path / "dev", "--no-flower")
    job_id = dev.send("hold", str(tmp_path / "never"), queue="gpu.t4.shared")
    dev.reaches(job_id, "running")
    processes = family(dev)
    end(dev, signal.SIGKILL)
    until(lambda: not alive(processes))


def test_dev_beside_an_own_redis_leaves_running_jobs_alone(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        gate = tmp_path / "gate"
        dev = start_dev(tmp_path / "dev", "--no-flower", "--redis-url", server.url)
        job_id = dev.send("hold", str(gate), queue="gpu.t4.shared")
        dev.reaches(job_id, "running")
        (executor,) = executors(dev)
        try:
            assert end(dev, signal.SIGTERM) == 0
            assert executor.is_running()
            assert "running jobs continue" in dev.log.read_text()
            cancelled = dev.run("cancel", job_id)
            assert "the next one writes REVOKED" in cancelled.stdout
            dev.send("fail", queue="gpu.t4.shared")
            found = dev.json("status")
            assert (found["dispatchers"], found["unaccepted"]) == ([], {"gpu.t4.shared": 1})
            assert "no dispatcher is alive" in dev.run("status").stdout
        finally:
            gate.touch()
            psutil.wait_procs([executor], timeout=20)
        assert not executor.is_running()


def test_dev_names_the_child_that_died(tmp_path: Path) -> None:
    dev = start_dev(tmp_path / "dev", "--no-flower")
    processes = family(dev)
    # A child of the dispatcher has its command line until it has become a runner.
    (worker,) = [
        each for each in processes if "worker" in each.cmdline() and each.ppid() == dev.process.pid
    ]
    worker.kill()
    assert dev.process.wait(PATIENCE) == 1
    assert "the dispatcher ended by itself with status -9" in dev.log.read_text()
    assert alive(processes) == []
