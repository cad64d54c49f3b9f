"""The file of tenants, and the rules that a command sets: what is wrong names field, value, fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.tenants_file import tenants_from_toml
from gpuqueue.errors import SettingsError
from gpuqueue.model.tenant import ClassRules, TenantRule, WrongRule, check_name
from gpuqueue.settings.classes import rules_of_tenants
from gpuqueue.settings.dispatcher import Settings

CLASSES = {"t4": GpuClass("t4", shared_slots=4, exclusive_slots=1)}
WRONG = {
    "no TOML": ("[t4", "GPUQUEUE_TENANTS_FILE='f.toml' is not TOML"),
    "an unknown class": ("[h100]", "f.toml: h100 is not a GPU class of this dispatcher; known: t4"),
    "no table": ("t4 = 3", "f.toml: t4=3 is not a table; use [CLASS.tenants.NAME]"),
    "an unknown key": ("[t4]\nhalf = 1", "f.toml: t4.half=1 is unknown; known: half_life, tenants"),
    "a half-life below a second": (
        "[t4]\nhalf_life = 0.5",
        "f.toml: t4.half_life=0.5 is not a half-life in seconds; use 1 to",
    ),
    "an unknown field": (
        "[t4.tenants.a]\nwait = 1",
        "f.toml: t4.tenants.a.wait=1 is unknown; known fields: weight, max_running",
    ),
    "a weight of 0": (
        "[t4.tenants.a]\nweight = 0",
        "f.toml: t4.tenants.a.weight=0 is not a weight; use a number from 0.000001",
    ),
    "a weight by which no number can be divided": (
        "[t4.tenants.a]\nweight = 1e-320",
        "f.toml: t4.tenants.a.weight=1e-320 is not a weight; use a number from 0.000001 to 1000000",
    ),
    "a weight that is none": (
        "[t4.tenants.a]\nweight = nan",
        "f.toml: t4.tenants.a.weight=nan is not a weight",
    ),
    "a negative limit": (
        "[t4.tenants.a]\nmax_running = -1",
        "f.toml: t4.tenants.a.max_running=-1 is not a number of jobs; use a whole number from 0",
    ),
    "half a job": ("[t4.tenants.a]\nmax_queued = 1.5", "max_queued=1.5 is not a number of jobs"),
    "true for a number": ("[t4.tenants.a]\nguaranteed = true", "guaranteed=True is not a number"),
    "a guarantee above the limit": (
        "[t4.tenants.a]\nguaranteed = 2\nmax_running = 1",
        "f.toml: t4.tenants.a.guaranteed=2 exceeds max_running=1; lower it, or raise max_running",
    ),
    "more guaranteed than there is": (
        "[t4.tenants.a]\nguaranteed = 3\n[t4.tenants.b]\nguaranteed = 2",
        "f.toml: t4.tenants.guaranteed=5 is more in sum than the 4 slots of the class; lower",
    ),
    "more guaranteed to each other one": (
        '[t4.tenants.a]\nguaranteed = 4\n[t4.tenants."*"]\nguaranteed = 5',
        "f.toml: t4.tenants.*.guaranteed=5 is more than the 4 slots of the class; lower it",
    ),
    "a name with a space": (
        "[t4.tenants.'a b']",
        "f.toml: t4.tenants='a b' cannot name a tenant; use up to 63 letters",
    ),
    "a name of other signs": (
        "[t4.tenants.'..']",
        "the first and the last a letter or digit; or '-' for jobs without a tenant, '*' for all",
    ),
    "a name with a control character": ('[t4.tenants."a\\u0007"]', "'a\\x07' cannot name a tenant"),
    "a name that is too long": (f"[t4.tenants.{'a' * 64}]", "cannot name a tenant; use up to 63"),
}


@pytest.mark.parametrize(("text", "problem"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused_with_field_value_and_fix(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tenants_from_toml(text, "f.toml", CLASSES)
    assert problem in str(caught.value)


def test_a_file_has_the_rules_of_each_class(tmp_path: Path) -> None:
    file = tmp_path / "tenants.toml"
    file.write_text(
        "[t4]\nhalf_life = 3600\n[t4.tenants.vision]\nweight = 2.5\nguaranteed = 2\n"
        '[t4.tenants."*"]\nmax_running = 1\n[t4.tenants."-"]\nmax_queued = 0\n'
    )
    rules, text = rules_of_tenants(Settings(GPUQUEUE_TENANTS_FILE=file), CLASSES)
    assert text == file.read_text()
    assert rules == {
        "t4": ClassRules(
            {
                "vision": TenantRule(weight=2.5, guaranteed=2),
                "*": TenantRule(max_running=1),
                "": TenantRule(max_queued=0),
            },
            3600,
        )
    }
    assert rules_of_tenants(Settings(), CLASSES) == ({}, "")
    with pytest.raises(SettingsError, match=r"GPUQUEUE_TENANTS_FILE=.*none' cannot be read: No su"):
        rules_of_tenants(Settings(GPUQUEUE_TENANTS_FILE=tmp_path / "none"), CLASSES)


@pytest.mark.parametrize(
    ("own", "slots"),
    [
        ({"domains": 3}, 12),
        ({"domain": "node", "nodes": ["a", "b"]}, 8),
        ({"domain": "node", "nodes": ["a", "b"], "scale_to": 5}, 20),
        ({"domain": "node", "scale_to": 5}, None),
    ],
)
def test_the_slots_of_all_domains_may_be_guaranteed(own: Any, slots: int | None) -> None:
    classes = {"t4": GpuClass("t4", shared_slots=4, exclusive_slots=1, **own)}
    assert classes["t4"].most_slots == slots
    text = "[t4.tenants.a]\nguaranteed = {}\n"
    number = slots or 1000
    rules = tenants_from_toml(text.format(number), "f.toml", classes)["t4"].rules
    assert rules["a"].guaranteed == number
    if slots:
        with pytest.raises(SettingsError, match=f"is more in sum than the {slots} slots"):
            tenants_from_toml(text.format(slots + 1), "f.toml", classes)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a\n", "ä"])
def test_a_name_that_no_message_may_have_is_refused(name: str) -> None:
    with pytest.raises(WrongRule, match="cannot name a tenant"):
        check_name(name)
