"""The alerts of the production overlay are the chart's: ``python -m tests.deploy.alerts`` writes
them anew.
"""

from __future__ import annotations

from typing import Any

import yaml

from tests.deploy.rendering import OVERLAYS, Object, chart, values

FILE = OVERLAYS / "production" / "alerts.yaml"
HEADER = """\
# What charts/gpuqueue/files/alerts.yaml gives for this overlay's dispatchers, with the chart's thresholds: the file is written by
# `python -m tests.deploy.alerts`. For thresholds of your own, patch it. docs/GPU.md has a section for each alert.
# yamllint disable rule:line-length
"""
#: In this order people read a rule.
ORDER = ("alert", "expr", "for", "labels", "annotations")


class Dumper(yaml.SafeDumper):
    """Lines stay lines, long texts are folded, lists are indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else ">" if len(text) > 100 else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _text)


def alerts() -> Object:
    """The PrometheusRule of production, without what only Helm gives."""
    made = chart(values("production")).one("PrometheusRule", "gpu-alerts")
    labels = {
        key: text
        for key, text in made["metadata"]["labels"].items()
        if key.startswith("app.kubernetes.io/")
    }
    for helms in ("app.kubernetes.io/managed-by", "app.kubernetes.io/version"):
        del labels[helms]
    groups = [
        {**group, "rules": [_ordered(rule) for rule in group["rules"]]}
        for group in made["spec"]["groups"]
    ]
    return {
        **{key: made[key] for key in ("apiVersion", "kind")},
        "metadata": {"name": made["metadata"]["name"], "labels": labels},
        "spec": {"groups": groups},
    }


def _ordered(rule: Object) -> dict[str, Any]:
    return {name: rule[name] for name in ORDER if name in rule}


def text() -> str:
    """The overlay's file."""
    return HEADER + yaml.dump(alerts(), Dumper=Dumper, sort_keys=False, width=110)


if __name__ == "__main__":
    FILE.write_text(text())
