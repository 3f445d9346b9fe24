"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_readme_says() -> None:
    example, shown = re.findall(r"```(?:python|text)\n(.*?)```", README, re.DOTALL)[:2]
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown
    assert len(example.splitlines()) == 12


def test_every_command_of_the_readme_exists() -> None:
    from recurc.cli import COMMANDS

    for command in re.findall(r"^    recurc (\w+)", README, re.MULTILINE):
        assert command in COMMANDS
    targets = re.findall(r"^([a-z0-9-]+):.*?##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in set(re.findall(r"make (demo|test|help|gpu|setup)\b", README)):
        assert target in targets


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/files.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), f"{page} points at {target}, which does not exist"
