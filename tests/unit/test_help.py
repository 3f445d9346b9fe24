"""What a message tells somebody to do who typed something near what they meant."""

from __future__ import annotations

import pytest

import recurc

HEAD = "recurrence Cell(D):\n    input  x[D]\n    output y = 2 * x\n\nrecurrence Main(D):\n    input  x[D]\n"
STATE = HEAD + "    state  h[D] = 0\n"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (HEAD + "    output y = Cel(x)\n", "E0202", "did you mean `Cell`?"),
        (HEAD + "    param  a[D] ~ unifrom(0, 1)\n    output y = a * x\n", "E0507", "did you mean `uniform`?"),
        (HEAD + "    param  a[D] ~ 2 * ones\n    output y = a * x\n", "E0507", "it stands alone, `~ ones`"),
        (HEAD + "    param  a[D] = 1\n    output y = a * x\n", "E0100", "a fixed number is a `const`"),
        (HEAD + "    input  z: f32(3)\n    output y = z * x\n", "E0502", "only `int(Q)` has one"),
        (STATE + "    der(h) = -h + x\n    output h\n", "E0100", "`using euler(dt)`"),
        (STATE + "    reset x\n    h = x\n    output h\n", "E0100", "`reset when c`"),
        (HEAD + '    use "other.rec"\n    output x\n', "E0100", "without indentation"),
        ("use other.rec\n" + HEAD + "    output x\n", "E0111", 'in quotes: `use "other.rec"`'),
    ],
)
def test_the_help_names_what_was_meant(text: str, code: str, said: str) -> None:
    with pytest.raises(recurc.RecError) as caught:
        recurc.load(text=text, name="Main")
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert said in found.help
