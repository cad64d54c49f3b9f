"""The Dockerfiles of workers/: pinned, small, non-root, without secrets.

tests/integration/test_images.py runs them.
"""

from __future__ import annotations

import re

import pytest

import gpuqueue
from tests.support.dockerfiles import (
    DOCKERFILES,
    ROOT,
    Dockerfile,
    Stage,
    context,
    is_ignored,
    read,
)


@pytest.fixture(params=DOCKERFILES)
def dockerfile(request: pytest.FixtureRequest) -> Dockerfile:
    return read(request.param)


def test_there_are_images_of_executors_and_of_dispatchers() -> None:
    assert DOCKERFILES == ["workers/dispatcher/Dockerfile", "workers/gpu-runner/Dockerfile"]


def test_only_known_instructions_are_used(dockerfile: Dockerfile) -> None:
    known = {"ARG", "RUN", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
    assert {each.verb for each in dockerfile.instructions} <= known


def test_every_base_is_an_argument_with_a_pinned_default_or_a_stage_before(
    dockerfile: Dockerfile,
) -> None:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        if stage.base not in seen:
            (name,) = re.findall(r"^\$\{(\w+)\}$", stage.base)
            assert re.fullmatch(r"[a-z/]+:\d+[\w.-]+", dockerfile.arguments[name]), (
                dockerfile.arguments[name]
            )
        seen.add(stage.name)
    assert "latest" not in (ROOT / dockerfile.path).read_text()


def test_every_argument_is_used(dockerfile: Dockerfile) -> None:
    for name in dockerfile.arguments:
        assert any(f"${{{name}}}" in stage.base for stage in dockerfile.stages), name
    for stage in dockerfile.stages:
        for argument in stage.all("ARG"):
            (name,) = argument.variables
            after = stage.instructions[stage.instructions.index(argument) + 1 :]
            assert any(f"${{{name}}}" in each.text for each in after), name


def test_what_is_copied_is_there(dockerfile: Dockerfile) -> None:
    files = context()
    stages: list[str] = []
    for stage in dockerfile.stages:
        for copy in stage.all("COPY"):
            *sources, target = copy.words
            assert target.startswith(("/", "./")) or len(sources) == 1
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in stages
                continue
            for source in sources:
                assert any(name == source or name.startswith(f"{source}/") for name in files), (
                    source
                )
        stages.append(stage.name)


def test_the_checkout_beside_the_package_stays_at_home() -> None:
    assert {name.partition("/")[0] for name in context()} == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
        *("gpuqueue", "workers"),
    }
    for name in (
        ".git/config",
        ".venv/bin/python",
        ".env",
        "tests/conftest.py",
        "gpuqueue/__pycache__/job.cpython-311.pyc",
    ):
        assert is_ignored(name), name
    assert not is_ignored("gpuqueue/store/lua/lib/line.lua")


def test_it_runs_as_a_user_with_a_number_that_is_not_root(dockerfile: Dockerfile) -> None:
    final = dockerfile.final
    assert int(final.last("USER").text) >= 1000  # runAsNonRoot needs a numeric user
    user = final.instructions.index(final.last("USER"))
    assert not [each for each in final.instructions[user:] if each.verb in ("RUN", "COPY")]


def test_it_is_started_without_a_shell_between_that_keeps_signals(dockerfile: Dockerfile) -> None:
    for each in dockerfile.final.all("CMD", "ENTRYPOINT"):
        assert each.text.startswith("["), each.text
    assert dockerfile.final.last("CMD").words[0] == "python3"


def test_no_secret_and_no_address_is_in_it(dockerfile: Dockerfile) -> None:
    for each in dockerfile.instructions:
        if each.verb in ("ENV", "ARG"):
            assert not [
                name
                for name in each.variables
                if re.search("PASS|TOKEN|SECRET|CREDENTIAL|_KEY|_URL", name)
            ]
        assert "://" not in each.text


def test_pip_keeps_no_cache_and_takes_the_versions_that_are_tested(dockerfile: Dockerfile) -> None:
    installs = [each for each in dockerfile.instructions if "pip install" in each.text]
    assert len(installs) == 1
    assert "--no-cache-dir -c constraints.txt" in installs[0].text
    # The package declares its dependencies: nothing else is installed, except optional packages.
    (names,) = re.findall(r"-c constraints\.txt (.*)$", installs[0].text)
    assert re.fullmatch(r"('\.\[[a-z0-9,]+\]'|\.)( \$\{\w+\})*", names), names
    for each in dockerfile.instructions:
        assert "apt-get install" not in each.text or "--no-install-recommends" in each.text


def test_apt_leaves_no_lists_in_the_image(dockerfile: Dockerfile) -> None:
    """The layers of an image are those of its last stage and of the base stages."""
    based = {stage.name: stage for stage in dockerfile.stages}
    stage: Stage | None = dockerfile.final
    while stage is not None:
        for run in stage.all("RUN"):
            assert "apt-get update" not in run.text or run.text.endswith(
                "rm -rf /var/lib/apt/lists/*"
            )
        stage = based.get(stage.base)


def test_an_executor_without_a_gpu_request_sees_no_gpu() -> None:
    """CUDA bases set NVIDIA_VISIBLE_DEVICES=all, which exposes every GPU of the node to containers
    to which the device plugin gives none.
    """
    runner, dispatcher = (
        read("workers/gpu-runner/Dockerfile"),
        read("workers/dispatcher/Dockerfile"),
    )
    said = {
        name: value for each in runner.final.all("ENV") for name, value in each.variables.items()
    }
    assert said["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert said["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert not [each for each in dispatcher.instructions if "NVIDIA" in each.text]


def test_the_first_lines_of_a_dockerfile_give_its_build_command(dockerfile: Dockerfile) -> None:
    (said,) = re.findall(
        r"^#   docker build -f (\S+) -t (\S+):(\S+) \.$",
        (ROOT / dockerfile.path).read_text(),
        re.MULTILINE,
    )
    assert (said[0], said[2]) == (dockerfile.path, gpuqueue.__version__)
