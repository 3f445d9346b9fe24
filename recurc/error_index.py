"""The registry of error codes: `error_codes.toml` as values, for `recurc explain CODE` and the page docs/errors."""

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


def index_page() -> str:
    """docs/errors/index.md. `python -m recurc.error_index > docs/errors/index.md` writes it."""
    lines = [
        "# Error codes",
        "",
        "Generated from `recurc/error_codes.toml`; `recurc explain E0312` prints one entry.",
        "E01xx is the form of the text, E02xx names, E03xx dims and types, E04xx time, E05xx declarations;",
        "E09xx are limitations: legal, but not supported yet.",
        "",
    ]
    for entry in codes().values():
        lines += [f"## {entry.code}: {entry.title}", "", entry.explanation, ""]
        if entry.wrong and len(entry.wrong) < 500:
            lines += ["Wrong:", "", "```text", _visible(entry.wrong).rstrip(), "```", ""]
        if entry.fix:
            lines += ["Right:", "", "```rec", entry.fix.rstrip(), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _visible(text: str) -> str:
    return text.replace("\t", "→   ").replace("\ufeff", "<U+FEFF>")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in _visible(text).rstrip().split("\n"))


if __name__ == "__main__":
    print(index_page(), end="")
