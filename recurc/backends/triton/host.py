"""What generated Triton modules do between kernels with torch: text of the functions that they bring along."""

from __future__ import annotations

import re

_FUNCTIONS = {
    "rc_rows": '''
def rc_rows(array, rows):
    """Some sequences of an array; a single entry stands for all."""
    return array if array.shape[0] == 1 else array.index_select(0, rows)
''',
    "rc_in_chunks": '''
def rc_in_chunks(inside, every, into, batch, steps, inputs, before, fixed, starts, held, outputs, ends, finals):
    """Calls `inside` for one chunk of steps after the other.

    `into`: how many steps of its chunk lie before the first step; a tensor where every sequence has a number of its
    own. Those of one number go together, for which the host has to wait for the device.
    By the names that `inside` gives them: `inputs` and `outputs` are (B, T, ...), `fixed` (B or 1, ...); `before` are
    what inputs were one step before the first, with the input's name; `starts` the states before the first step, whose
    values after a chunk `inside` writes to its argument `ends[NAME]`; `held` what stays as it is in a chunk: its value
    before the first step, and the state that it takes over where a chunk starts. `finals` get the last values."""
    if not isinstance(into, int):
        places = torch.unique(into).tolist()
        if len(places) > 1:
            for place in places:
                rows = torch.nonzero(into == place)[:, 0]
                made, last = (
                    {n: a.new_empty((len(rows), *a.shape[1:])) for n, a in group.items()} for group in (outputs, finals)
                )
                picked = [{n: rc_rows(a, rows) for n, a in group.items()} for group in (inputs, fixed, starts)]
                pairs = [{n: (rc_rows(a, rows), of) for n, (a, of) in group.items()} for group in (before, held)]
                rc_in_chunks(
                    inside, every, place, len(rows), steps,
                    inputs=picked[0], before=pairs[0], fixed=picked[1], starts=picked[2], held=pairs[1],
                    outputs=made, ends=ends, finals=last,
                )
                for whole, parts in ((outputs, made), (finals, last)):
                    for n, part in parts.items():
                        whole[n][rows] = part
            return
        into = places[0]
    now, frozen, begin = starts, {n: a for n, (a, _) in held.items()}, 0
    while begin < steps:
        gone = (begin + into) % every
        end = min(steps, begin + every - gone)
        if gone == 0:
            frozen = {n: now[source] for n, (_, source) in held.items()}
        after = {n: torch.empty_like(a, memory_format=torch.contiguous_format) for n, a in now.items()}
        inside(
            **{n: a[:, begin:end] for n, a in (*inputs.items(), *outputs.items())},
            **{n: inputs[of][:, begin - 1] if begin else a.to(inputs[of].dtype) for n, (a, of) in before.items()},
            **fixed, **frozen, **now, **{ends[n]: a for n, a in after.items()},
            batch=batch, steps=end - begin, begin=begin,
        )
        now, begin = after, end
    for n, target in finals.items():
        target.copy_(now[n] if n in now else frozen[n])
''',
    "rc_rounds": '''
rc_rounds = {}  # of the last call: how many rounds of Newton's method each sequence took, 0 if none solved it
''',
    "rc_picked": '''
def rc_picked(array, rows):
    """Some sequences of an array that is only read; a single entry stands for all."""
    return array[:1] if array.shape[0] == 1 or array.stride(0) == 0 else array.index_select(0, rows)
''',
    "rc_newton": '''
def rc_newton(improve, bound, most, start, falls, batch, steps, segments, given, guess, after, error):
    """Calls `improve` until every sequence is solved, its residual at most `bound`, or given up: after `most` rounds,
    or with a residual that is not finite, or above `start` * `falls` ** k after k of them (`falls` None: never).
    Returns how many rounds each took, 0 where none solved it, and the guesses.

    `given` is what `improve` reads beside the `guess`; `after` the names of the next one, by those of the guess;
    `error` the name, dims and type of the residuals."""
    device = next(iter(guess.values())).device
    taken = torch.zeros(batch, dtype=torch.int32, device=device)
    rows = torch.arange(batch if steps else 0, device=device)
    for turn in range(1, most + 1):
        if not len(rows):
            break
        every = len(rows) == batch
        now = given if every else {n: rc_picked(a, rows) for n, a in given.items()}
        old = guess if every else {n: a[rows] for n, a in guess.items()}
        new = {n: torch.empty_like(a) for n, a in old.items()}
        off = torch.empty((len(rows), steps, *error[1]), dtype=error[2], device=device)
        improve(
            **now, **old, **{after[n]: a for n, a in new.items()}, **{error[0]: off},
            batch=len(rows), steps=steps, segments=segments,
        )
        if every:
            guess = new
        else:
            for n, a in new.items():
                guess[n][rows] = a
        worst = off.flatten(1).amax(1)
        solved = worst <= bound
        taken[rows[solved]] = turn
        limit = math.inf if falls is None else start * falls**turn
        rows = rows[~solved & torch.isfinite(worst) & (worst <= limit)]
    return taken, *guess.values()
''',
    "rc_not_solved": '''
def rc_not_solved(loop, taken, batch, steps, given, results):
    """Runs the steps of those sequences that no round solved, one after another."""
    rows = torch.nonzero(taken == 0)[:, 0]
    if len(rows) == batch:
        loop(**given, **results, batch=batch, steps=steps)
    elif len(rows):
        made = {n: a.new_empty((len(rows), *a.shape[1:])) for n, a in results.items()}
        loop(**{n: rc_picked(a, rows) for n, a in given.items()}, **made, batch=len(rows), steps=steps)
        for n, a in results.items():
            a[rows] = made[n]
''',
    "rc_wide": '''
def rc_wide(array, sets):
    """What is no sequence, as it is computed with; numbers in double precision."""
    array = array[:sets]
    return (array.to(torch.float64) if array.is_floating_point() else array).contiguous()
''',
    "rc_unit": '''
def rc_unit(count, device):
    return torch.eye(count, dtype=torch.float64, device=device)
''',
    "rc_flat": '''
def rc_flat(array, order, own, lanes, blocks, width):
    """(B, T, *dims) as (B, T, lanes or 1, blocks, width) in double precision. `order`: its lanes, blocks, other dims;
    `own`: the sizes of the lanes, 1 for those that it lacks, along which it is repeated to `lanes`."""
    array = array.to(torch.float64).permute(0, 1, *(2 + i for i in order))
    array = array.reshape(*array.shape[:2], *own, blocks * width).expand(*array.shape[:2], *lanes, blocks * width)
    return array.reshape(*array.shape[:2], math.prod(lanes), blocks, width)
''',
    "rc_full": '''
def rc_full(flat, lanes, blocks, shape, back):
    """The reverse; axes of size 1 for lanes and blocks are repeated."""
    flat = flat.expand(*flat.shape[:2], lanes, blocks, flat.shape[-1])
    return flat.reshape(*flat.shape[:2], *shape).permute(0, 1, *(2 + i for i in back))
''',
    "rc_columns": '''
def rc_columns(parts):
    """Values of unit vectors, (P, columns, L, E, width) each, as the columns of a matrix (P, L, E, widths, columns)."""
    return torch.cat(parts, -1).permute(0, 2, 3, 4, 1).contiguous()
''',
    "rc_leaving": '''
def rc_leaving(parts, sets, lanes):
    """What leaves, (1 or P, columns, lanes or 1, 1, width) each, as (P, lanes, widths, columns)."""
    parts = [p[:, :, :, 0].expand(sets, p.shape[1], lanes, p.shape[-1]) for p in parts]
    return torch.cat(parts, -1).permute(0, 2, 3, 1)
''',
    "rc_times": '''
def rc_times(a, x):
    """A (P, L, E, q, q) times columns (P, L, E, q, ...)."""
    if a.shape[-1] == 1:
        return a.reshape(*a.shape[:4], *(1,) * (x.dim() - 4)) * x
    return (a @ x.flatten(4)).reshape(*torch.broadcast_shapes(a.shape[:3], x.shape[:3]), *x.shape[3:])
''',
    "rc_power": '''
def rc_power(a, exponent):
    """A to a power that is at least 1."""
    found = None
    while exponent:
        if exponent & 1:
            found = a if found is None else rc_times(a, found)
        a, exponent = rc_times(a, a), exponent >> 1
    return found
''',
    "rc_powers": '''
def rc_powers(a, x, count):
    """A^k X for k < count, (P, L, E, q, count, r), and A^count, by doubling; `count` is a power of two."""
    found = x[..., None, :]
    while found.shape[-2] < count:
        found = torch.cat(torch.broadcast_tensors(found, rc_times(a, found)), -2)
        a = rc_times(a, a)
    return found, a
''',
    "rc_rows_of": '''
def rc_rows_of(c, leap, count):
    """C B^i for i < count, (P, L, count, m, E q), by doubling; C is (P, L, m, E q) and B, `leap`, (P, L, E, q, q)."""
    found = c.unflatten(-1, (leap.shape[2], leap.shape[3])).transpose(2, 3)[:, :, :, None]
    while found.shape[3] < count:
        if leap.shape[-1] == 1:
            more = found * leap[:, :, :, None]
        else:
            more = (found.flatten(3, 4) @ leap).unflatten(3, found.shape[3:5])
        found = torch.cat(torch.broadcast_tensors(found, more), 3)
        leap = rc_times(leap, leap)
    return found[:, :, :, :count].permute(0, 1, 3, 4, 2, 5).flatten(4)
''',
    "rc_products": '''
def rc_products(rows, columns, steps):
    """Every row (P, L, count, m, E q) times every column (P, L, E, q, size, r): (P, L, m, r, T)."""
    count, m, (size, r) = rows.shape[2], rows.shape[3], columns.shape[-2:]
    flat = rows.flatten(2, 3) @ columns.flatten(4).flatten(2, 3)
    return flat.unflatten(2, (count, m)).unflatten(-1, (size, r)).permute(0, 1, 3, 5, 2, 4).flatten(4)[..., :steps]
''',
    "rc_response": '''
def rc_response(rows, after, before, steps):
    """What is read of states that begin as the columns `after` (read after a step) and `before` (read before it)."""
    now, late = (None if r is None else rc_products(r, x, steps) for r, x in zip(rows, (after, before)))
    if late is not None and after is before:
        late = torch.nn.functional.pad(late[..., :-1], (1, 0))
    return late if now is None else now if late is None else now + late
''',
    "rc_fast_length": '''
def rc_fast_length(least):
    """The smallest product of powers of 2, 3 and 5 that is not less than `least`."""
    best = 1 << (least - 1).bit_length()
    for five in (5**i for i in range(best.bit_length())):
        for odd in (five * 3**i for i in range(best.bit_length())):
            if odd < best:
                best = min(best, odd << (-(-least // odd) - 1).bit_length())
    return best
''',
    "rc_last": '''
def rc_last(a, leap, columns, driven, start, size, steps):
    """The states after the last step, (B, L, E, q): no transform touches them."""
    odd, state = steps % size, start[..., None]
    if odd:
        state = rc_times(rc_power(a, odd), state)
    blocks = state.new_zeros((*state.shape[:-1], steps // size))
    if driven is not None:
        moving, turned = driven.transpose(2, 3), columns.flip(-2)  # the latest input is the least moved
        whole = moving[:, :, odd:].reshape(*moving.shape[:2], steps // size, size * moving.shape[-1])
        pushed = whole @ turned.flatten(4).flatten(2, 3).transpose(2, 3)
        blocks = pushed.transpose(2, 3).unflatten(2, state.shape[2:4])
        if odd:
            part = turned[..., size - odd :, :].flatten(4).flatten(2, 3)
            state = state + (part @ moving[:, :, :odd].flatten(2)[..., None]).unflatten(2, state.shape[2:4])
    states = torch.cat([state, blocks], -1)
    while states.shape[-1] > 1:  # two neighbours become one, the earlier moved on
        if states.shape[-1] % 2:
            states = torch.nn.functional.pad(states, (1, 0))
        states = rc_times(leap, states[..., 0::2]) + states[..., 1::2]
        leap = rc_times(leap, leap)
    return states[..., 0]
''',
    "rc_convolved": '''
def rc_convolved(a, g, now, before, sources, starts, batch, steps):
    """What leaves, (B, T, L, 1, m), and the states after the last step, (B, 1, L, E, q), by the response to an impulse
    K_j = C A^j G, the convolution K * v through transforms of length 2 T or more, and powers of A for the start.

    All of it is in double precision: K * v is off by about u log2(T) |K| |v| (Euclidean norms, u = 2^-53). None where
    a number is not finite, which would reach steps before its own, and where the response grows by more than 2^20,
    which would leave nothing of small values before large ones. The host waits once, to learn that."""
    start, sources = torch.cat(starts, -1)[:, 0], [x[..., 0, :] for x in sources]
    lanes, blocks, width = a.shape[1:4]
    entering = 0 if g is None else g.shape[-1]
    leaving = max((c.shape[2] for c in (now, before) if c is not None), default=0)
    given = [x for x in (a, g, now, before, start, *sources) if x is not None]
    sound = torch.stack([torch.isfinite(x).all() for x in given]).all()
    size = 1 << -(-(steps - 1).bit_length() // 2)  # near the root of T
    length = rc_fast_length(2 * steps - 1)
    out = torch.empty((batch, lanes, leaving, steps), dtype=torch.float64, device=a.device)
    last = torch.empty_like(start, memory_format=torch.contiguous_format)
    most = max(1, (1 << 25) // (2 * steps * (entering * (1 + leaving) + leaving + 1) * max(1, batch // 4)))
    for first in range(0, lanes, most):
        lane = slice(first, min(first + most, lanes))
        own, begun = a[:, lane], start[:, lane]
        driven, columns, leap = None, None, rc_power(own, size)
        if entering:
            parts = [x.expand(-1, -1, lanes, -1)[:, :, lane].permute(0, 2, 3, 1) for x in sources]
            driven = torch.cat(parts, 2)
            columns, leap = rc_powers(own, g[:, lane], size)
        if leaving:
            rows = [None if c is None else rc_rows_of(c[:, lane], leap, -(-steps // size)) for c in (now, before)]
            moved, _ = rc_powers(own, begun[..., None], size)
            made = rc_response(rows, rc_times(own, moved), moved, steps)[:, :, :, 0]
            if entering:
                kernel = rc_response(rows, columns, columns, steps)
                high = kernel.abs()
                early = high[..., : blocks * width + 2].amax(-1)
                sound = sound & torch.isfinite(high).all() & (high.amax(-1) <= 2.0**20 * early).all()
                response, drive = torch.fft.rfft(kernel, length), torch.fft.rfft(driven, length)
                spectrum = response[:, :, :, 0] * drive[:, :, None, 0]
                for k in range(1, entering):
                    spectrum += response[:, :, :, k] * drive[:, :, None, k]
                made = made + torch.fft.irfft(spectrum, length)[..., :steps]
            out[:, lane] = made
        last[:, lane] = rc_last(own, leap, columns, driven, begun, size, steps)
    if not sound.item():
        return None
    return out.permute(0, 3, 1, 2)[:, :, :, None], last[:, None]
''',
}  # fmt: skip


def host_text(text: str) -> str:
    """The functions that `text` calls, directly or through others, each before its callers."""
    wanted: dict[str, None] = {}

    def want(body: str, me: str = "") -> None:
        for name in sorted(set(re.findall(r"\brc_\w+\b", body)) & _FUNCTIONS.keys() - {me}):
            want(_FUNCTIONS[name], name)
            wanted.setdefault(name)

    want(text)
    return "".join(f"\n{_FUNCTIONS[name]}" for name in wanted)
