"""Which names stand in IR text as they are; any other is written as a JSON string."""

import re

WORD = re.compile(r"[^\W\d]\w*")
NAME = re.compile(r"[^\W\d][\w.@']*")
PART = re.compile(r"(?:[0-9]+\.)?[^\W\d][\w.@']*")  # a read may also name a part of a monoid's element: `1.a`
