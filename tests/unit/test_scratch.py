"""Files of a process are gone with it, or with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse.errors import ConfigError
from lakehouse.storage import ScratchDirectory

_HOLDER = """
import sys, time
from lakehouse.storage import ScratchDirectory
print(ScratchDirectory(sys.argv[1]).path, flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_not_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        (left / "upload-x").mkdir()
        (left / "upload-x" / "content").write_bytes(b"rows")
        meanwhile = ScratchDirectory(str(tmp_path))
        assert (left / "upload-x" / "content").exists()
        holder.send_signal(signal.SIGKILL)
    after = ScratchDirectory(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([meanwhile.path, after.path])
    assert capfd.readouterr() == ("", "")  # what starts says its address, and nothing before
    meanwhile.close()
    after.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_of_another_program_stays(tmp_path: Path) -> None:
    (tmp_path / "lakehouse-scratch-notes").mkdir()
    (tmp_path / "lakehouse-scratch-file").write_text("")
    (tmp_path / "other").mkdir()
    ScratchDirectory(str(tmp_path)).close()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"engine\.spill_directory = .*file"):
        ScratchDirectory(str(tmp_path / "file"))
