"""The map of the project is complete: someone new finds every file and folder named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _tracked() -> list[Path]:
    """The files of the project, as git knows them, or as they lie there outside of git."""
    try:
        done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        return [Path(line) for line in done.stdout.splitlines() if (ROOT / line).exists()]
    except (OSError, subprocess.CalledProcessError):
        return [p.relative_to(ROOT) for p in ROOT.rglob("*.py") if ".venv" not in p.parts and "build" not in p.parts]


def test_every_python_file_of_the_package_is_named_in_the_list_of_files() -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)/\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for path in _tracked():
        if path.suffix == ".py" and path.parts[0] in ("recurc", "examples", "bench") and (ROOT / path).stat().st_size:
            assert f"`{path.name}`" in sections.get(path.parent.as_posix(), ""), (
                f"{path} is not in docs/files.md: `make docs`"
            )


def test_every_file_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "docs/list_files.py"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    silent = [line for line in done.stdout.splitlines() if re.fullmatch(r"\| `[^`]+` \|\s+\|", line)]
    assert not silent, silent


def test_every_folder_of_the_package_is_on_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.as_posix() for path in _tracked() if path.suffix == ".py" and path.parts[0] == "recurc"}
    for folder in folders - {"recurc/backends/cpu/prelude"}:
        assert f"`{folder}/`" in page, f"{folder} is not in docs/architecture.md"


def test_the_architecture_page_names_no_file_that_is_gone() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in re.findall(r"^\| `([a-z/]+)/` \|", page, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
