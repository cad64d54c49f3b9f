"""What 0.1.0 rendered before values of later versions existed: an upgrade changes no object of an
installation that does not set them.

``before/*.json`` has the values and the objects, without alerts and dashboard, which may grow. So
may the rights of dispatchers.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.deploy.rendering import Object, chart

BEFORE = sorted((Path(__file__).parent / "before").glob("*.json"))


def keyed(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    return {
        (each["kind"], each["metadata"]["namespace"], each["metadata"]["name"]): each
        for each in objects
    }


def rights(role: Object) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def is_kept(made: Object, before: Object) -> bool:
    if before["kind"] != "Role":
        return made == before
    return rights(made) >= rights(before) and {**made, "rules": before["rules"]} == before


@pytest.mark.parametrize("file", BEFORE, ids=lambda file: file.stem)
def test_an_installation_of_before_keeps_its_objects(file: Path) -> None:
    kept = json.loads(file.read_text())
    made = keyed(chart(kept["values"]))
    assert len(kept["objects"]) > 8
    for key, before in keyed(kept["objects"]).items():
        assert is_kept(made.pop(key), before), key
    assert all(key[0] == "PrometheusRule" or key[2].endswith("-dashboard") for key in made)


def test_a_changed_default_is_seen() -> None:
    kept = json.loads(BEFORE[0].read_text())
    given = copy.deepcopy(kept["values"])
    given["podSecurityContext"] = {"runAsUser": 1001}
    before = keyed(kept["objects"])
    made = keyed(chart(given))
    assert {key[0] for key in before if not is_kept(made[key], before[key])} == {"Deployment"}
