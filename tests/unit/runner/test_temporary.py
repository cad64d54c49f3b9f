"""The temporary files of one job of a pod."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from gpuqueue.runner.temporary import VARIABLE, temporary_files


@pytest.mark.parametrize("chosen", [None, "/somewhere"])
@pytest.mark.parametrize("before", [None, ""])
def test_a_directory_is_removed_and_what_was_set_is_set_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str | None, chosen: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", chosen and str(tmp_path))
    were = os.environ.get(VARIABLE), tempfile.tempdir
    with temporary_files():
        folder = Path(os.environ[VARIABLE])
        assert Path(tempfile.mkdtemp()).parent == folder
        (folder / "left").write_text("by a job")
    assert not folder.exists()
    assert (os.environ.get(VARIABLE), tempfile.tempdir) == were


def test_a_pod_without_room_for_temporary_files_runs_its_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    before = os.environ.get(VARIABLE)
    with temporary_files():
        assert os.environ.get(VARIABLE) == before
