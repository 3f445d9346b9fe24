"""The dependence picture of a plan: what feeds what, which states belong together, what runs where."""

from __future__ import annotations
