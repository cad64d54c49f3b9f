"""Whether the files of an application have changed."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from gpuqueue.executor.sources import Sources


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("seen_app", "seen_part"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "seen_part.py").write_text("X = 1\n")
    (tmp_path / "seen_app.py").write_text("import json.tool, seen_part\n")
    return set(sys.modules)


def test_changed_and_removed_files_of_the_application_are_named(
    before: set[str], tmp_path: Path
) -> None:
    importlib.import_module("seen_app")
    sources = Sources(before)
    assert sources.changed() == ""
    part = tmp_path / "seen_part.py"
    os.utime(part, ns=(1, 1))
    assert sources.changed() == str(part)
    sources = Sources(before)
    assert sources.changed() == ""
    part.unlink()
    assert sources.changed() == str(part)


def test_files_of_python_and_of_installed_packages_do_not_count(before: set[str]) -> None:
    importlib.import_module("seen_app")
    found = {Path(each).name for each in Sources(before)._times}
    assert found == {"seen_app.py", "seen_part.py"}


def test_file_of_a_module_may_never_have_been_there(
    before: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("seen_part")
    monkeypatch.setattr(module, "__file__", "/not/there.py")
    assert Sources(before).changed() == ""
