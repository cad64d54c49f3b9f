"""The tests for a real cluster, run against the double as a process: what they take for granted is what the double is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gpuqueue.embedded import EmbeddedRedis

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]
IMAGE = "cluster-test:1"


def test_the_suite_for_real_clusters_passes_on_the_double(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpuqueue.testing.cluster", "--pace", "0.05", "--directory", str(tmp_path / "cluster")]
    with EmbeddedRedis(tmp_path / "redis") as server, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cluster:
        try:
            assert cluster.stdout
            kubeconfig, control = (cluster.stdout.readline().strip() for _ in range(2))
            image = {"name": IMAGE, "env": {"PYTHONPATH": str(ROOT)}, "cwd": str(ROOT)}
            asked = urllib.request.Request(f"{control.rstrip('/')}/image", json.dumps(image).encode())
            urllib.request.urlopen(asked).close()
            env = {"KUBECONFIG": kubeconfig, "CLUSTER_IMAGE": IMAGE, "CLUSTER_REDIS_URL": server.url, "CLUSTER_PATIENCE": "40"}
            # A process of this machine has no memory limit: the double's own tests kill such a job instead.
            run = [sys.executable, "-m", "pytest", "-q", "tests/cluster", "-m", "not real_limits"]
            done = subprocess.run(run, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=360)
        finally:
            cluster.terminate()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout.splitlines()[-1]
