"""The objects that the chart, the overlays and the ArgoCD applications create."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import ROOT, call

CHART = ROOT / "charts" / "gpuqueue"
OVERLAYS = ROOT / "deploy" / "k8s" / "mlops-saas" / "overlays"
APPLICATIONS = ROOT / "deploy" / "argocd" / "apps-prod"
VALUES = Path(__file__).parent / "values"
#: Custom resources.
CUSTOM = ("argoproj.io/", "keda.sh/", "monitoring.coreos.com/")

Object = dict[str, Any]


class Refused(Exception):
    """Helm or kubectl refused to render; the text is its message."""


class Objects(list[Object]):
    """Objects by kind and name."""

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self if each["kind"] in kinds]

    def one(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """Return the object of this name; also of this namespace if several have it."""
        (found,) = [
            each
            for each in self.of(kind)
            if each["metadata"]["name"] == name
            and namespace in (None, each["metadata"].get("namespace"))
        ]
        return found

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Yield the name of each workload and its pod template."""
        for each in self.of("Deployment", "StatefulSet"):
            yield each["metadata"]["name"], each["spec"]["template"]


def values(name: str) -> Object:
    """Return a value set: a file of values/, or ``production`` from the ArgoCD application."""
    if name == "production":
        found: Object = application("gpuqueue")["spec"]["source"]["helm"]["valuesObject"]
        return found
    return yaml.safe_load((VALUES / f"{name}.yaml").read_text()) or {}


#: Every value set, all of which must render.
SETS = ("production", *sorted(path.stem for path in VALUES.glob("*.yaml")))


def helm_template(
    given: Mapping[str, Any], *arguments: str, release: str = "gpu", namespace: str = "mlops-saas"
) -> str:
    """Render the chart with these values, as text. Raises :class:`Refused`."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        done = call(
            "helm", "template", release, str(CHART), "-n", namespace, "-f", file.name, *arguments
        )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def chart(given: Mapping[str, Any], **how: str) -> Objects:
    """Render the chart with these values. Raises :class:`Refused`."""
    return parse(helm_template(given, **how))


@cache
def chart_text(name: str) -> str:
    """Render a value set, once, as text."""
    return helm_template(values(name))


@cache
def chart_set(name: str) -> Objects:
    """Render a value set, once."""
    return parse(chart_text(name))


@cache
def overlay_text(name: str) -> str:
    """Return the output of an overlay as text. Raises :class:`Refused`."""
    done = call("kubectl", "kustomize", str(OVERLAYS / name))
    if done.returncode or done.stderr:
        raise Refused(done.stderr)
    return done.stdout


@cache
def overlay(name: str) -> Objects:
    """Render an overlay, once."""
    return parse(overlay_text(name))


def application(name: str) -> Object:
    """Return an ArgoCD application of production."""
    found: Object = yaml.safe_load((APPLICATIONS / f"{name}.yaml").read_text())
    return found


def parse(text: str) -> Objects:
    return Objects(
        each for each in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each
    )


#: Everything that is rendered: source and value set.
EVERYTHING = [*(("chart", name) for name in SETS), ("overlay", "dev"), ("overlay", "production")]


def render(source: str, name: str) -> Objects:
    """Render one of :data:`EVERYTHING`."""
    return chart_set(name) if source == "chart" else overlay(name)


def settings_of(found: Objects, pod: Object) -> dict[str, str]:
    """Return the environment of the first container of a pod from ConfigMaps and values; later ones
    override earlier ones, as in Kubernetes.
    """
    (container,) = pod["spec"]["containers"]
    told: dict[str, str] = {}
    for each in container.get("envFrom", ()):
        if "configMapRef" in each:
            told |= found.one("ConfigMap", each["configMapRef"]["name"])["data"]
    return told | {
        each["name"]: each["value"] for each in container.get("env", ()) if "value" in each
    }
