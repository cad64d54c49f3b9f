"""Read the pod template of the operator (GPUQUEUE_POD_TEMPLATE), as YAML or JSON.

The only module that imports ``yaml``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate
from gpuqueue.launchers.kubernetes.manifest.template_rules.pod import parse_pod_template

_TEXT, _DATE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"


def load_pod_template(path: Path) -> PodTemplate:
    """Read and check a template.

    Raises :class:`SettingsError` with file, path in the document, value, problem and fix.
    """
    try:
        document = _load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(
            f"GPUQUEUE_POD_TEMPLATE={str(path)!r} cannot be read: {exc.strerror}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        problem = " ".join(str(exc).split())
        raise SettingsError(
            f"GPUQUEUE_POD_TEMPLATE={str(path)!r} is not a single YAML or JSON document: {problem}"
        ) from None
    return parse_pod_template(document, str(path))


def _load(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        _as_kubernetes_reads(root, set())
        return loader.construct_document(root) if root is not None else None
    finally:
        loader.dispose()


def _as_kubernetes_reads(node: Any, seen: set[int]) -> None:
    """Keep dates as text, and reject duplicate keys, of which one would be lost."""
    if node is None or id(node) in seen:  # an alias can form a cycle
        return
    seen.add(id(node))
    if node.tag == _DATE:
        node.tag = _TEXT
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _as_kubernetes_reads(each, seen)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key.value!r}", key.start_mark
                )
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            _as_kubernetes_reads(value, seen)
