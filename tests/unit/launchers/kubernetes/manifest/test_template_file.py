"""The file of the pod template: YAML and JSON, parsed as Kubernetes does."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate
from gpuqueue.launchers.kubernetes.manifest.template_file import load_pod_template

YAML = """
# Shared memory for the data loaders.
metadata:
  annotations: {since: 2024-05-01}
spec:
  volumes:
    - name: shm
      emptyDir: &memory {medium: Memory}
    - name: scratch
      emptyDir: *memory
  initContainers:
"""
JSON = (
    '{"apiVersion": "v1", "kind": "PodTemplate", "template": {"spec": {"priorityClassName":'
    ' "gpu"}}}'
)
WRONG = {
    "invalid YAML": ("spec: [", "is not a single YAML or JSON document: while parsing a flow node"),
    "bytes that are not UTF-8": (
        b"\xff\xfe\x00",
        "is not a single YAML or JSON document: 'utf-8' codec can't decode",
    ),
    "two documents": (
        "spec: {}\n---\nspec: {}",
        "is not a single YAML or JSON document: expected a single document",
    ),
    "a duplicate key": (
        "spec:\n  volumes: []\n  volumes: []",
        "is not a single YAML or JSON document: duplicate key 'volumes' in",
    ),
    "a Python object": (
        "spec: !!python/object/apply:os.system [x]",
        "could not determine a constructor for the tag",
    ),
    "a forbidden field": (
        "spec: {hostPID: true}",
        "spec.hostPID=True is not allowed in a pod template",
    ),
    "an empty file": ("", "is not a pod template but None"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pod.yaml"


def test_yaml_file_with_dates_aliases_and_empty_keys(file: Path) -> None:
    file.write_text(YAML)
    volumes = [
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "scratch", "emptyDir": {"medium": "Memory"}},
    ]
    assert load_pod_template(file) == PodTemplate({}, {"since": "2024-05-01"}, {"volumes": volumes})


def test_json_file(file: Path) -> None:
    file.write_text(JSON)
    assert load_pod_template(file) == PodTemplate(spec={"priorityClassName": "gpu"})


@pytest.mark.parametrize(("content", "text"), WRONG.values(), ids=WRONG)
def test_error_names_the_invalid_file(content: str | bytes, text: str, file: Path) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as caught:
        load_pod_template(file)
    assert str(caught.value).startswith(f"GPUQUEUE_POD_TEMPLATE={str(file)!r}")
    assert text in str(caught.value)


def test_error_names_the_missing_file(file: Path) -> None:
    with pytest.raises(
        SettingsError,
        match=r"GPUQUEUE_POD_TEMPLATE='.*pod\.yaml' cannot be read: No such file or directory",
    ):
        load_pod_template(file)
