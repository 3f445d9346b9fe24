"""The head of a zoo file: what it is, its paper, its class."""

from __future__ import annotations

from recurc.zoo.header import header


def test_a_header_has_a_sentence_a_paper_and_a_class() -> None:
    found = header(
        '# Gated thing.\n# Paper: A. Uthor (2024),\n#   "A Title".\n# Class: TRI (m SL, then S SR1)\n'
        "# A note.\n\n# no header\nrecurrence A(D):\n"
    )
    assert found.about == "Gated thing."
    assert found.paper == 'A. Uthor (2024), "A Title".'
    assert found.classes == "TRI (m SL, then S SR1)"
    assert found.notes == ("A note.",)


def test_a_file_without_a_header_has_empty_fields() -> None:
    assert header("recurrence A(D):\n") == header("")
    assert header("").about == ""
