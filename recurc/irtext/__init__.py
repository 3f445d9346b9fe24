"""The IR as text that parses back, for dumps, goldens and bug reports.

Every node says its dtype and dims, so nothing has to be inferred when reading:

    recurrence EMA(D) {
      input x: real[D]
      param alpha: real[D]
      state h: real[D] = 0.0: real
      %h = add: real[D](mul: real[D](%alpha: real[D], %h[t-1]: real[D]), %x: real[D])
      output h
    }

`%name` is a read, `head{details}: type(operands)` an operation. `parse(to_text(rec)) == rec`; spans are not kept.
A plan is printed with the same expressions (`plan_to_text`), one way only.
"""

from recurc.irtext.printer import expr_to_text, plan_to_text, to_text
from recurc.irtext.reader import parse

__all__ = ["expr_to_text", "parse", "plan_to_text", "to_text"]
