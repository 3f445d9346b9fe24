"""Helpers shared by the backends that print code: names, lanes, expressions."""
