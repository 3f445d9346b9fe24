from __future__ import annotations
from recurc.backends.cpu.body import Body
def print_tiled(body: Body, function: str, why: str) -> str:
    raise NotImplementedError
def pack_calls(body: Body, function: str) -> list[str]: return []
def layout(body: Body, function: str) -> list[str]: return []
