"""Where things stand: columns by dependence, an order within each that keeps arrows short. Lengths are in points."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from recurc.picture.model import Arrow, Box, Kind, Picture, some

MONO = 9.5  # the size of equations
MONO_WIDTH = 0.602  # of a character of the monospaced font, by its size
TITLE = 11.0
SMALL = 8.0
LINE = 14.0
PAD = 12.0
COLUMN_GAP = 66.0  # at least; more where an arrow carries a label
ROW_GAP = 13.0
LOOP_HEIGHT = 34.0  # room above a group for its feedback arrow
LOOP_SPAN = 0.56  # of the width of its box
LOOP_BEND = 18.0  # the corners of that arrow
_APART = 12.0  # lines of labels
_LANE = 6.0  # the height of a lane an arrow takes through a column it only passes


@dataclass(frozen=True, slots=True)
class Rect:
    """`x`, `y` is the lower left corner; y grows upwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def top(self) -> float:
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Route:
    """An arrow as points to pass, from the right side of its source to the left side of its target."""

    arrow: Arrow
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Label:
    """What arrows carry, once for those that leave a box together; `x`, `y` is the middle of the text."""

    text: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Layout:
    boxes: dict[str, Rect]
    routes: tuple[Route, ...]
    labels: tuple[Label, ...]
    width: float
    height: float


def pill_widths(box: Box) -> tuple[float, float]:
    """The widths of an input's, param's or output's name and of its dims, both in the monospaced font."""
    return MONO_WIDTH * TITLE * len(box.title), (MONO_WIDTH * SMALL * len(box.subtitle) + 5) * bool(box.subtitle)


def size(box: Box) -> tuple[float, float]:
    """Width and height of a box that holds its text."""
    if box.kind in (Kind.INPUT, Kind.PARAM, Kind.OUTPUT):
        return max(52.0, sum(pill_widths(box)) + 26), 25.0
    texts = [MONO_WIDTH * MONO * len(line) for line in box.lines]
    texts += [0.62 * TITLE * len(box.title), 0.56 * SMALL * len(box.subtitle)]
    texts += [0.56 * SMALL * len(line) for line in box.note.split("\n")]
    if box.feedback:  # its arrow, which spans a part of the box, shows on both sides of its label
        texts.append((MONO_WIDTH * SMALL * len(box.feedback) + 2 * LOOP_BEND) / LOOP_SPAN - 2 * PAD)
    height = 2 * PAD + 13 + LINE * len(box.lines)
    height += 13 * bool(box.subtitle) + (4 + 11 * len(box.note.split("\n"))) * bool(box.note)
    return max(texts) + 2 * PAD, height


def arrange(picture: Picture) -> Layout:
    """Place every box and route every arrow of `picture`."""
    columns = _columns(picture)
    last = max(columns.values(), default=0)
    chains, lanes = _chains(picture, columns)
    nodes: list[list[str]] = [[] for _ in range(last + 1)]
    for box in picture.boxes:
        nodes[columns[box.key]].append(box.key)
    for lane, column in lanes.items():
        nodes[column].append(lane)
    carried = _carried(picture.arrows, chains)
    links = {(a, b) for chain in chains for a, b in pairwise(chain)}
    _order(nodes, links)
    sizes = {b.key: size(b) for b in picture.boxes} | dict.fromkeys(lanes, (0.0, _LANE))
    room = {b.key: LOOP_HEIGHT if b.feedback else 0.0 for b in picture.boxes}
    middles = _rows(nodes, links, sizes, room)
    rects: dict[str, Rect] = {}
    x = right = 0.0
    for number, column in enumerate(nodes):
        width = max((sizes[n][0] for n in column), default=0.0)
        for n in column:
            own = width if n in lanes else sizes[n][0]
            left = x + (width - own) * (1.0 if columns.get(n) == 0 else 0.0 if columns.get(n) == last else 0.5)
            rects[n] = Rect(left, middles[n] - sizes[n][1] / 2, own, sizes[n][1])
        right = x + width
        labels = [text for (source, _), text in carried.items() if columns[source] == number]
        x = right + max([COLUMN_GAP, *(MONO_WIDTH * SMALL * len(text) + 46 for text in labels)])
    low = min((r.y for r in rects.values()), default=0.0)
    high = max((r.top + room.get(n, 0.0) for n, r in rects.items()), default=0.0)
    rects = {n: Rect(r.x, r.y - low, r.width, r.height) for n, r in rects.items()}
    routes = _routes(chains, rects, picture.arrows)
    boxes = {b.key: rects[b.key] for b in picture.boxes}
    return Layout(boxes, routes, _labels(carried, chains, routes), right, high - low)


def _columns(picture: Picture) -> dict[str, int]:
    """Longest path from the inputs; outputs together in the last column."""
    column = {b.key: 0 if b.kind in (Kind.INPUT, Kind.PARAM) else 1 for b in picture.boxes}
    for _ in picture.boxes:
        for a in picture.arrows:
            column[a.target] = max(column[a.target], column[a.source] + 1)
    last = max(column.values(), default=0)
    return column | {b.key: last for b in picture.boxes if b.kind is Kind.OUTPUT}


def _chains(picture: Picture, columns: dict[str, int]) -> tuple[list[list[str]], dict[str, int]]:
    """Each arrow as a chain of neighbouring columns; arrows of one source share their lanes."""
    lanes: dict[str, int] = {}
    chains: list[list[str]] = []
    for a in picture.arrows:
        between = range(columns[a.source] + 1, columns[a.target])
        for c in between:
            lanes[f"lane:{a.source}:{c}"] = c
        chains.append([a.source, *(f"lane:{a.source}:{c}" for c in between), a.target])
    return chains, lanes


def _carried(arrows: tuple[Arrow, ...], chains: list[list[str]]) -> dict[tuple[str, str], str]:
    """What is written where arrows leave a box, by the box and where they go first."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for arrow, chain in zip(arrows, chains, strict=True):
        if arrow.names:
            names.setdefault((chain[0], chain[1]), {}).update(dict.fromkeys(arrow.names))
    return {key: some(list(found)) for key, found in names.items()}


def _labels(
    carried: dict[tuple[str, str], str], chains: list[list[str]], routes: tuple[Route, ...]
) -> tuple[Label, ...]:
    """Each in the middle of the first part of its arrows, moved down as far as the one above it asks for."""
    first = {(c[0], c[1]): r.points[:2] for c, r in zip(chains, routes, strict=True)}
    wanted = [(first[key], text) for key, text in carried.items()]
    placed: list[Label] = []
    for ((x0, y0), (x1, y1)), text in sorted(wanted, key=lambda w: -(w[0][0][1] + w[0][1][1])):
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        for other in placed:
            if 2 * abs(x - other.x) < MONO_WIDTH * SMALL * (len(text) + len(other.text)) and abs(y - other.y) < _APART:
                y = other.y - _APART
        placed.append(Label(text, x, y))
    return tuple(placed)


def _order(nodes: list[list[str]], links: set[tuple[str, str]]) -> None:
    """Barycentre sweeps: each node moves to the mean place of its neighbours in the next column."""
    before: dict[str, list[str]] = {n: [] for column in nodes for n in column}
    after: dict[str, list[str]] = {n: [] for column in nodes for n in column}
    for a, b in sorted(links):
        before[b].append(a)
        after[a].append(b)
    for sweep in range(12):
        forward = sweep % 2 == 0
        near = before if forward else after
        for i in range(1, len(nodes)) if forward else range(len(nodes) - 2, -1, -1):
            fixed = nodes[i - 1 if forward else i + 1]
            place = {n: (k + 0.5) / len(fixed) for k, n in enumerate(fixed)}
            own = {n: (k + 0.5) / len(nodes[i]) for k, n in enumerate(nodes[i])}
            centre = {n: _mean([place[m] for m in near[n]], own[n]) for n in nodes[i]}
            nodes[i].sort(key=centre.__getitem__)


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _rows(
    nodes: list[list[str]], links: set[tuple[str, str]], sizes: dict[str, tuple[float, float]], room: dict[str, float]
) -> dict[str, float]:
    """The middle of every node: drawn towards its neighbours as far as the order of its column leaves space."""
    middle: dict[str, float] = {}
    gaps: list[list[float]] = []
    for column in nodes:
        offsets: list[float] = []
        y = 0.0
        for n in column:
            y += sizes[n][1] / 2 + room.get(n, 0.0)
            offsets.append(y)
            y += sizes[n][1] / 2 + ROW_GAP
        gaps.append(offsets)
        middle |= {n: (y - ROW_GAP) / 2 - offset for n, offset in zip(column, offsets, strict=True)}
    near: dict[str, list[str]] = {n: [] for column in nodes for n in column}
    for a, b in sorted(links):
        near[a].append(b)
        near[b].append(a)
    for _ in range(40):
        for column, offsets in zip(nodes, gaps, strict=True):
            wishes = [_mean([middle[m] for m in near[n]], middle[n]) for n in column]
            middle |= dict(zip(column, _settle(wishes, offsets), strict=True))
    return middle


def _settle(wishes: list[float], offsets: list[float]) -> list[float]:
    """The places nearest to the wishes (least squares) that keep order and gaps: pool adjacent violators."""
    pools: list[tuple[float, int]] = []
    for wish, offset in zip(wishes, offsets, strict=True):
        pools.append((wish + offset, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    level = [value for value, count in pools for _ in range(count)]
    return [v - offset for v, offset in zip(level, offsets, strict=True)]


def _routes(chains: list[list[str]], rects: dict[str, Rect], arrows: tuple[Arrow, ...]) -> tuple[Route, ...]:
    """Arrows leave and enter a box at separate places, in the order of where they go to and come from."""
    leaving: dict[str, list[str]] = {}
    entering: dict[str, list[str]] = {}
    for chain in chains:
        leaving.setdefault(chain[0], [])
        if chain[1] not in leaving[chain[0]]:
            leaving[chain[0]].append(chain[1])
        entering.setdefault(chain[-1], [])
        if chain[-2] not in entering[chain[-1]]:
            entering[chain[-1]].append(chain[-2])
    for ends in (leaving, entering):
        for near in ends.values():
            near.sort(key=lambda n: -rects[n].middle)
    routes: list[Route] = []
    for arrow, chain in zip(arrows, chains, strict=True):
        source, target = rects[chain[0]], rects[chain[-1]]
        points = [(source.right, _port(source, leaving[chain[0]].index(chain[1]), len(leaving[chain[0]])))]
        for lane in chain[1:-1]:
            points += [(rects[lane].x, rects[lane].middle), (rects[lane].right, rects[lane].middle)]
        points.append((target.x, _port(target, entering[chain[-1]].index(chain[-2]), len(entering[chain[-1]]))))
        routes.append(Route(arrow, tuple(points)))
    return tuple(routes)


def _port(rect: Rect, index: int, count: int) -> float:
    """The height of the index-th of `count` arrow ends, spread over the middle of a side, from the top."""
    spread = min(rect.height * 0.72, 20.0 * (count - 1))
    return rect.middle + spread / 2 - (spread * index / (count - 1) if count > 1 else 0.0)
