"""The scripts as text: documented, and without a literal key; keys and states beside them."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from gpuqueue.model import states
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.states import JobState
from gpuqueue.store import keys, scripts
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import connect
from gpuqueue.store.finishes import ExecutorFinish
from gpuqueue.store.keys import HAND_NAMES, LETTER_NAMES, NAMES, class_key, class_keys
from gpuqueue.store.scripts import _KEYS, source

SCRIPTS = Path(str(files("gpuqueue.store") / "lua"))
EVERY = {
    path.relative_to(SCRIPTS).with_suffix("").as_posix(): path.read_text()
    for path in sorted(SCRIPTS.rglob("*.lua"))
}
VERBS = [name for name in EVERY if not name.startswith("lib/")]
HEADER = re.compile(
    r"-- (?P<verb>\w+): .*?\n(?:-- ARGV\[2\]: .*?\n)?"
    r"(?:-- Context:\n)?(?P<context>(?:--   .*?\n)*)-- Answer: .*?\n"
    r"(?=[^-]|--!)",
    re.DOTALL,
)
FIELDS = re.compile(r"^--   ([\w?, ]+): ", re.MULTILINE)
_ATTEMPTS = inspect.getsource(ExecutorAttempt), inspect.getsource(ExecutorFinish)
OF_EXECUTORS, OF_FINISHERS = (tuple(re.findall(r'_call\(\s*"(\w+)"', text)) for text in _ATTEMPTS)
#: How a script names the keys of a queue, of which it works on several.
KEYS_OF = {
    "intake/take": ("q.", "q[", "unpack(", "list"),
    "lib/hands": ("q.",),
    "lib/waiting_pods": ("K.", "K[", "bell"),  # that of one pod
}
#: What the library takes of the context that a verb hands to it as a whole.
HANDED = {
    "admit(context)": set(re.findall(r"\bask\.(\w+)", EVERY["lib/admission"])),
    "is_current(job, context)": set(re.findall(r"\basked\.(\w+)", EVERY["lib/records"])),
    "current_job(context)": {"delivery", "attempt", "token"},
    "release(context)": set(re.findall(r"\basked\.(\w+)", EVERY["lib/release"])),
}


def names_of(script: str) -> list[str]:
    """Return the names of the keys that a script gets."""
    folder = script.rpartition("/")[0]
    if folder == "lib":
        return [*NAMES, *LETTER_NAMES]
    return list(_KEYS[folder])


def code(text: str) -> str:
    """Return a script without its comments."""
    return "\n".join(line.partition("--")[0] for line in text.splitlines())


def documented(verb: str) -> set[str]:
    """Return the fields that a verb's header documents; those that may be absent end in ``?``."""
    header = HEADER.match(EVERY[verb])
    assert header, f"{verb}: no header with what it does, Context and Answer"
    assert header["verb"] == verb.rpartition("/")[2]
    return {name for names in FIELDS.findall(header["context"]) for name in names.split(", ")}


@pytest.mark.parametrize("verb", VERBS)
def test_a_header_documents_the_fields_that_its_script_reads(verb: str) -> None:
    body = code(EVERY[verb])
    read = set(re.findall(r"\bcontext\.(\w+)", body))
    for call, fields in HANDED.items():
        read |= fields if call in body else set()
    assert {name.rstrip("?") for name in documented(verb)} == read


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_argument_is_documented_and_there_is_no_third(verb: str) -> None:
    text = EVERY[verb]
    numbers = set(re.findall(r"ARGV\[(\d+)\]", code(text)))
    assert numbers == ({"2"} if "\n-- ARGV[2]: " in text else set())


def test_a_library_part_reads_no_context() -> None:
    library = {name: text for name, text in EVERY.items() if name not in VERBS}
    assert [name for name, text in library.items() if "context." in code(text)] == []


@pytest.mark.parametrize("name", EVERY)
def test_every_key_comes_from_KEYS(name: str) -> None:
    body = code(EVERY[name])
    body = body.replace("redis.call('TIME')", "")  # the only command without a key
    calls = re.findall(r"redis\.call\('(\w+)',\s*([^,)]+)", body)
    assert len(calls) == body.count("redis.call("), "a call whose key this test cannot read"
    for command, key in calls:
        allowed = KEYS_OF.get(name, ("K.", "K[", "domain.key("))
        assert key.startswith(allowed) or key == "key", f"{command} on {key}"
    assert set(re.findall(r"\bK\.(\w+)", body)) <= set(names_of(name))
    assert name == "lib/hands" or "KEYS" not in body
    assert "gpuqueue:" not in body


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
    text, names = source(verb), names_of(verb)
    keys = ", ".join(f"{name} = KEYS[{index}]" for index, name in enumerate(names, 1))
    assert text.startswith(f"local K = {{{keys}}}\n")
    parts = [line for line in EVERY[verb].splitlines() if line.startswith("--!")]
    assert text.endswith(EVERY[verb] + "end)()\n" * len(parts))
    assert f"KEYS[{len(names) + 1}]" not in text


def test_the_messages_in_hand_have_the_keys_of_each_queue_in_order() -> None:
    assert re.search(r"NAMES = \{ (.*) \}", EVERY["lib/hands"]).group(1) == ", ".join(  # type: ignore[union-attr]
        f"'{name}'" for name in HAND_NAMES
    )
    assert set(re.findall(r"\bq\.(\w+)", code(EVERY["intake/take"]))) == {*HAND_NAMES, "lists"} - {
        "hand"
    }
    assert keys.hand_keys("gpu.t4", "p:")[0] == "p:gpuqueue:1:{p:gpu.t4}:last"


def test_the_keys_of_a_class_share_one_hash_tag_and_stand_in_order() -> None:
    found = class_keys("mig-1g.5gb")
    assert {re.search(r"\{(.*?)\}", key).group(1) for key in found} == {"mig-1g.5gb"}  # type: ignore[union-attr]
    assert found == [class_key("mig-1g.5gb", name) for name in NAMES]
    assert len(set(found) | set(class_keys("t4"))) == 2 * len(NAMES)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(KeyError):
        class_key("t4", "holder")


def test_every_key_starts_with_the_version_of_its_shape() -> None:
    own = [
        keys.leader_key("t4"),
        keys.wake_key("t4"),
        keys.GROUPS,
        keys.CLASSES,
        keys.DISPATCHERS,
        keys.CONSUMED,
        keys.REVOKED_STAMPS,
        *keys.letter_keys(),
        *keys.hand_keys("gpu.t4"),
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


def test_a_process_reads_its_scripts_once_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of the package changes the files under a process of the older version."""
    client, attempt = connect("redis://127.0.0.1:1"), Attempt("t4", "j", 1)
    starts: dict[tuple[str, ...], Callable[[], object]] = {
        tuple(VERBS): scripts.read,
        OF_EXECUTORS: lambda: ExecutorAttempt(client, attempt, "token"),
        OF_FINISHERS: lambda: ExecutorFinish(client, attempt, "finisher", 1.0),
    }
    for verbs, start in starts.items():
        for kept in (scripts.script, scripts._read_files, scripts._library, scripts._own):
            kept.cache_clear()
        start()
        with monkeypatch.context() as changed:
            changed.setattr(scripts, "files", None)
            for verb in verbs:
                assert EVERY[verb] in source(verb)


def test_scripts_are_the_same_in_every_locale() -> None:
    program = "import sys; from gpuqueue.store.scripts import source; sys.stdout.buffer.write("
    program += "source('admit').encode())"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, **ascii_only}, capture_output=True)
    assert (done.stderr, done.stdout.decode()) == (b"", source("admit"))
