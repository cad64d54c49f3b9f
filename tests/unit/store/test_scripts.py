"""The scripts as text: documented, and without a key of their own; keys and states beside them."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from gpuqueue.model import states
from gpuqueue.model.states import JobState
from gpuqueue.store import keys
from gpuqueue.store.keys import NAMES, class_key, class_keys
from gpuqueue.store.scripts import source

SCRIPTS = files("gpuqueue.store") / "lua"
VERBS = sorted(
    each.name.removesuffix(".lua") for each in SCRIPTS.iterdir() if each.name.endswith(".lua")
)
LIBRARY = sorted(each.name for each in (SCRIPTS / "lib").iterdir() if each.name.endswith(".lua"))
EVERY = {verb: (SCRIPTS / f"{verb}.lua").read_text() for verb in VERBS} | {
    f"lib/{name}": (SCRIPTS / "lib" / name).read_text() for name in LIBRARY
}


def code(text: str) -> str:
    """Return a script without its comments."""
    return "\n".join(line.partition("--")[0] for line in text.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_says_what_it_does_takes_and_answers(verb: str) -> None:
    text = EVERY[verb]
    assert text.startswith(f"-- {verb}: ")
    assert "\n-- Answer: " in text
    described = re.search(r"^-- ARGV: (.*?)^-- Answer:", text, re.MULTILINE | re.DOTALL)
    assert described
    plain = re.sub(r"\([^()]*\)", "", re.sub(r"\n--\s+", " ", described.group(1)))
    used = max(int(number) for number in re.findall(r"ARGV\[(\d+)\]", text))
    assert len([part for part in plain.split(",") if part.strip()]) == used


@pytest.mark.parametrize("name", EVERY)
def test_every_key_comes_from_KEYS(name: str) -> None:
    body = code(EVERY[name])
    calls = re.findall(r"redis\.call\('(\w+)',\s*([^,)]+)", body)
    assert len(calls) == body.count("redis.call("), "a call whose key this test cannot read"
    for command, key in calls:
        assert key.startswith(("K.", "K[")) or key == "key", f"{command} on {key}"
    named = set(re.findall(r"\bK\.(\w+)", body))
    assert named <= set(NAMES)
    assert "KEYS" not in body and "gpuqueue:" not in body


@pytest.mark.parametrize("name", EVERY)
def test_a_state_that_a_script_names_exists(name: str) -> None:
    found = re.findall(r"\.state [=~]=? '(\w+)'", code(EVERY[name]))
    assert set(found) <= {str(state) for state in JobState}


def test_every_key_is_used_by_some_script() -> None:
    together = "\n".join(map(code, EVERY.values()))
    unused = [
        name
        for name in NAMES
        if f"K.{name}" not in together and not name.startswith(("holders_", "waiting_"))
    ]
    assert unused == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_gets_its_keys_by_name_and_its_library_first(verb: str) -> None:
    text = source(verb)
    assert text.startswith("local K = {jobs = KEYS[1], messages = KEYS[2], ")
    assert text.endswith(EVERY[verb])
    assert text.count(f"= KEYS[{len(NAMES)}]") == 1 and f"KEYS[{len(NAMES) + 1}]" not in text


def test_the_keys_of_a_class_share_one_hash_tag_and_stand_in_order() -> None:
    found = class_keys("mig-1g.5gb")
    assert {re.search(r"\{(.*?)\}", key).group(1) for key in found} == {"mig-1g.5gb"}  # type: ignore[union-attr]
    assert found == [class_key("mig-1g.5gb", name) for name in NAMES]
    assert len(set(found) | set(class_keys("t4"))) == 2 * len(NAMES)


def test_a_key_nobody_knows_is_refused() -> None:
    with pytest.raises(KeyError):
        class_key("t4", "holder")


def test_every_key_starts_with_the_version_of_its_shape() -> None:
    own = [
        keys.leader_key("t4"),
        keys.wake_key("t4"),
        keys.GROUPS,
        keys.CLASSES,
        keys.DISPATCHERS,
        keys.REVOKED_STAMPS,
        *class_keys("t4"),
    ]
    assert all(key.startswith(f"gpuqueue:{keys.VERSION}:") for key in own)


def test_every_state_has_its_moves_and_leads_to_the_end() -> None:
    assert set(states.MOVES) == set(JobState)
    leads = {JobState.ENDED}
    for _ in JobState:
        leads |= {state for state, following in states.MOVES.items() if following & leads}
    assert leads == set(JobState)
    assert states.MOVES[JobState.ENDED] == frozenset()
