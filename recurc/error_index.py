"""The registry of error codes: `error_codes.toml` as values, for `recurc explain CODE` and the pages of docs/errors."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from recurc.errors import RecurcError


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One code: a title, a long explanation, source text that is wrong in this way, and the same put right."""

    code: str
    title: str
    explanation: str
    wrong: str = ""
    fix: str = ""

    @property
    def is_limitation(self) -> bool:
        """Whether the code names something legal that this version does not do."""
        return self.code.startswith("E09")

    def to_json(self) -> dict[str, str]:
        """The same as data."""
        return asdict(self)

    def to_text(self) -> str:
        """The long form that `recurc explain CODE` prints."""
        parts = [f"{self.code}: {self.title}", self.explanation]
        if self.wrong and len(self.wrong) < 500:
            parts.append("Wrong:\n\n" + _indented(self.wrong))
        if self.fix:
            parts.append("Right:\n\n" + _indented(self.fix))
        return "\n\n".join(parts) + "\n"


@cache
def codes() -> dict[str, ErrorCode]:
    """Every registered code, in order."""
    data = tomllib.loads(files("recurc").joinpath("error_codes.toml").read_text(encoding="utf-8"))
    return {code: ErrorCode(code, **entry) for code, entry in sorted(data.items())}


def entry(code: str) -> ErrorCode:
    """The entry of a code such as `E0312`. Raises `RecurcError` if there is none."""
    found = codes().get(code.upper())
    if found is None:
        raise RecurcError(f"there is no error code {code!r}; they run from {min(codes())} to {max(codes())}")
    return found


def visible(text: str) -> str:
    """`text` with tabs and byte-order marks shown."""
    return text.replace("\t", "→   ").replace("\ufeff", "<U+FEFF>")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in visible(text).rstrip().split("\n"))
