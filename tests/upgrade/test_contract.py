"""What keeps the layout: names stay what they are, new ones come beside them, and every version
carries what it does not know.

Dispatchers, executors (whose images carry their own scripts) and command lines of several versions
work on one state at once. Where a change cannot keep to this, ``gpuqueue.store.keys.VERSION`` is
raised: see docs/operate/upgrades.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.keys import VERSION
from tests.upgrade.contract import contract
from tests.upgrade.later_fields import walk

HERE = Path(__file__).parent
CONTRACTS = sorted(HERE.glob("contract-*.json"))
#: The layout of those contracts. If you raise VERSION, record a contract of the new layout and drop
#: these.
OF_LAYOUT = 1


def broken(known: Any, found: Any, where: str = "") -> list[str]:
    """Say what another version relies on and does not find."""
    if isinstance(known, dict) and isinstance(found, dict):
        gone = [f"{where}{name}: gone" for name in known if name not in found]
        return gone + [
            each
            for name in known
            if name in found
            for each in broken(known[name], found[name], f"{where}{name}: ")
        ]
    if isinstance(known, list) and isinstance(found, list):
        return [f"{where}{each}: gone" for each in known if each not in found]
    return [] if known == found else [f"{where}was {known!r}, is {found!r}"]


def run(script: str, code: Path, *arguments: str) -> Any:
    """Run a script of :func:`tests.upgrade.previous.unpack` on the code beside it."""
    env = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(
        [sys.executable, code / script, *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("file", CONTRACTS, ids=lambda file: file.stem)
def test_nothing_that_another_version_of_this_layout_relies_on_has_changed(file: Path) -> None:
    assert VERSION == OF_LAYOUT
    assert broken(json.loads(file.read_text()), contract()) == []


def test_a_change_of_the_contract_is_seen() -> None:
    known = contract()
    changed = json.loads(json.dumps(known))
    changed["keys of a class"]["jobs"] = "zset"
    del changed["fields of a record"]["token"]
    changed["told to executors in pods"].remove("GPUQUEUE_TOKEN")
    assert broken(known, changed) == [
        "keys of a class: jobs: was 'hash', is 'zset'",
        "fields of a record: token: gone",
        "told to executors in pods: GPUQUEUE_TOKEN: gone",
    ]
    assert broken(changed, known) == ["keys of a class: jobs: was 'zset', is 'hash'"]


def test_the_recorded_contract_is_that_of_the_previous_version(previous: Path) -> None:
    assert run("contract.py", previous) == json.loads((HERE / "contract-0.1.0.json").read_text())


@pytest.mark.integration
def test_every_script_keeps_the_fields_of_a_later_version(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    seen = walk(server.url)
    assert len(seen) == 15
    assert {step: lost for step, lost in seen.items() if lost} == {}


@pytest.mark.integration
def test_scripts_of_the_previous_version_keep_fields_of_a_later_one(
    server: EmbeddedRedis, client: redis.Redis, previous: Path
) -> None:
    assert {
        step: lost for step, lost in run("later_fields.py", previous, server.url).items() if lost
    } == {}
