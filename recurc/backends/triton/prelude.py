"""The helpers generated Triton modules bring along: elementwise functions that are safe over their whole range.

Written with Triton's own operators only, so that they compile on every target. A module contains just those it uses.
Each works on f32 and f64 tiles; the formulas name their identity."""

from __future__ import annotations

import re

_HELPERS = {
    "rc_max": '''
def rc_max(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
''',
    "rc_min": '''
def rc_min(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
''',
    "rc_not": '''
def rc_not(x):
    return x == 0
''',
    "rc_exp": '''
def rc_exp(x):
    return tl.exp(x)
''',
    "rc_log": '''
def rc_log(x):
    return tl.log(x)
''',
    "rc_expm1": '''
def rc_expm1(x):
    """(e - 1) x / log e with e = exp x: the rounding of e cancels (Kahan)."""
    e = tl.exp(x)
    small = tl.where(e == 1.0, x, (e - 1.0) * x / tl.log(tl.where((e == 1.0) | (e == 0.0), 2.0, e)))
    return tl.where(tl.abs(x) < 1.0, small, e - 1.0)
''',
    "rc_log1p": '''
def rc_log1p(x):
    """log(u) x / (u - 1) with u = 1 + x: the rounding of u cancels (Kahan)."""
    u = 1.0 + x
    small = tl.where(u == 1.0, x, tl.log(u) * x / tl.where(u == 1.0, 1.0, u - 1.0))
    return tl.where(tl.abs(x) < 1.0, small, tl.log(u))
''',
    "rc_sqrt": '''
def rc_sqrt(x):
    return tl.sqrt(x)
''',
    "rc_rsqrt": '''
def rc_rsqrt(x):
    return tl.rsqrt(x)
''',
    "rc_logaddexp": '''
def rc_logaddexp(x, y):
    """max + log1p(exp(-|x - y|)); equal operands apart, so that infinities do not meet."""
    gap = tl.where(x == y, 0.0, tl.abs(x - y))
    return rc_max(x, y) + rc_log1p(tl.exp(-gap))
''',
    "rc_sin": '''
def rc_sin(x):
    return tl.sin(x)
''',
    "rc_cos": '''
def rc_cos(x):
    return tl.cos(x)
''',
    "rc_atan2": '''
def rc_atan2(y, x):
    """The angle of (x, y), through atan of the smaller over the larger (rational approximation on [-0.66, 0.66])."""
    ax = tl.abs(x)
    ay = tl.abs(y)
    top = tl.maximum(ax, ay)
    z = tl.where(top == 0.0, 0.0, tl.minimum(ax, ay) / tl.where(top == 0.0, 1.0, top))
    z = tl.where((ax == ay) & (top > 0.0), 1.0, z)
    far = z > 0.66
    u = tl.where(far, (z - 1.0) / (z + 1.0), z)
    s = u * u
    p = (((-8.750608600031904122785e-1 * s - 1.615753718733365076637e1) * s - 7.500855792314704667340e1) * s
         - 1.228866684490136173410e2) * s - 6.485021904942025371773e1
    q = ((((s + 2.485846490142306297962e1) * s + 1.650270098316988542046e2) * s + 4.328810604912902668951e2) * s
         + 4.853903996359136964868e2) * s + 1.945506571482613964425e2
    angle = u + u * s * p / q
    angle = tl.where(far, angle + 0.785398163397448309616, angle)
    angle = tl.where(ay > ax, 1.570796326794896619231 - angle, angle)
    angle = tl.where(x < 0.0, 3.141592653589793238463 - angle, angle)
    return tl.where(y < 0.0, -angle, angle)
''',
    "rc_erf": '''
def rc_erf(x):
    return tl.erf(x)
''',
    "rc_abs": '''
def rc_abs(x):
    return tl.abs(x)
''',
    "rc_sign": '''
def rc_sign(x):
    return tl.where(x > 0, 1, tl.where(x < 0, -1, 0)).to(x.dtype)
''',
    "rc_floor": '''
def rc_floor(x):
    if x.dtype.is_floating():
        x = tl.floor(x)
    return x
''',
    "rc_round": '''
def rc_round(x):
    """To the nearest integer, ties to the even one."""
    if x.dtype.is_floating():
        low = tl.floor(x)
        rest = x - low
        up = (rest > 0.5) | ((rest == 0.5) & (tl.floor(low * 0.5) * 2.0 != low))
        x = tl.where(up, low + 1.0, low)
    return x
''',
    "rc_mod": '''
def rc_mod(x, y):
    """The remainder with the sign of the divisor; 0 for an integer divisor 0, as in NumPy."""
    if x.dtype.is_floating():
        r = x % y
        r = tl.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)
    else:
        r = x % tl.where((y == 0) | (y == -1), 1, y)
        r = tl.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)
    return r
''',
    "rc_floordiv": '''
def rc_floordiv(x, y):
    if x.dtype.is_floating():
        q = tl.floor((x - rc_mod(x, y)) / y + 0.5)
    else:
        by = tl.where((y == 0) | (y == -1), 1, y)
        q = x // by
        q = tl.where((x % by != 0) & ((x < 0) != (by < 0)), q - 1, q)
        q = tl.where(y == 0, 0, tl.where(y == -1, 0 - x, q))
    return q
''',
    "rc_pow": '''
def rc_pow(x, y):
    """exp(y log|x|) in f64, with the signs and zeros of x ** y."""
    y64 = y.to(tl.float64)
    size = tl.exp(y64 * tl.log(tl.abs(x).to(tl.float64)))
    whole = tl.floor(y64) == y64
    odd = whole & (tl.floor(y64 * 0.5) * 2.0 != y64)
    signed = tl.where(x < 0, tl.where(odd, -size, tl.where(whole, size, float("nan"))), size)
    power = tl.where(y == 0, 1.0, tl.where(x == 1, 1.0, signed))
    if x.dtype.is_floating():
        result = power.to(x.dtype)
    else:
        result = tl.floor(power + 0.5).to(x.dtype)
    return result
''',
    "rc_sigmoid": '''
def rc_sigmoid(x):
    """1 / (1 + e) or e / (1 + e) with e = exp(-|x|): no overflow, no loss at either end."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)
''',
    "rc_tanh": '''
def rc_tanh(x):
    """-e / (2 + e) with e = expm1(-2|x|): exact at both ends, relative accuracy around 0."""
    size = tl.abs(x)
    if x.dtype == tl.float64:
        e = rc_expm1(-2.0 * size)
        magnitude = -e / (2.0 + e)
    else:
        s = x * x
        p = (((-5.70498872745e-3 * s + 2.06390887954e-2) * s - 5.37397155531e-2) * s + 1.33314422036e-1) * s
        near = size + size * s * (p - 3.33332819422e-1)
        magnitude = tl.where(size < 0.625, near, 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0))
    return tl.where(x < 0.0, -magnitude, magnitude)
''',
    "rc_softplus": '''
def rc_softplus(x):
    """max(x, 0) + log1p(exp(-|x|))."""
    return tl.maximum(x, 0.0) + rc_log1p(tl.exp(-tl.abs(x)))
''',
    "rc_solve": '''
def rc_solve(a, b, row, column, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    """X with a X = b: Gauss-Jordan elimination with partial pivoting. `rows` and `columns` are the axes of a, `row` and
    `column` the places along them; X has its rows on the axis `rows`. All of X is NaN where a has no inverse."""
    found = tl.max(tl.max(tl.where(a == a, 1, 1), axis=columns, keep_dims=True), axis=rows, keep_dims=True)
    for k in range(0, size):
        here = tl.sum(tl.where(column == k, a, 0.0), axis=columns, keep_dims=True)
        candidates = tl.where((row >= k) & (row < size), tl.abs(here), -1.0)
        best = tl.argmax(candidates, axis=rows, keep_dims=True)
        upper_a = tl.sum(tl.where(row == k, a, 0.0), axis=rows, keep_dims=True)
        lower_a = tl.sum(tl.where(row == best, a, 0.0), axis=rows, keep_dims=True)
        upper_b = tl.sum(tl.where(row == k, b, 0.0), axis=rows, keep_dims=True)
        lower_b = tl.sum(tl.where(row == best, b, 0.0), axis=rows, keep_dims=True)
        a = tl.where(row == k, lower_a, tl.where(row == best, upper_a, a))
        b = tl.where(row == k, lower_b, tl.where(row == best, upper_b, b))
        pivot = tl.sum(tl.where(column == k, lower_a, 0.0), axis=columns, keep_dims=True)
        found = tl.where(pivot == 0.0, 0, found)
        here = tl.sum(tl.where(column == k, a, 0.0), axis=columns, keep_dims=True)
        factor = tl.where((row == k) | (row >= size), 0.0, here / pivot)
        a = a - factor * lower_a
        b = b - factor * lower_b
    diagonal = tl.sum(tl.where(row == column, a, 0.0), axis=columns, keep_dims=True)
    x = b / tl.where(row < size, diagonal, 1.0)
    return tl.where(found == 0, float("nan"), x)
''',
    "rc_cholesky": '''
def rc_cholesky(a, row, column, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    """The lower triangular factor, column by column; reads the lower triangle only. All NaN where there is none."""
    found = tl.max(tl.max(tl.where(a == a, 1, 1), axis=columns, keep_dims=True), axis=rows, keep_dims=True)
    factor = tl.zeros_like(a)
    for k in range(0, size):
        down = tl.sum(tl.where(column == k, a, 0.0), axis=columns, keep_dims=True)
        pivot = tl.sum(tl.where(row == k, down, 0.0), axis=rows, keep_dims=True)
        found = tl.where(pivot > 0.0, found, 0)
        down = tl.where(row >= k, down / tl.sqrt(pivot), 0.0)
        along = tl.sum(tl.where(row == column, down, 0.0), axis=rows, keep_dims=True)
        factor = tl.where(column == k, down, factor)
        a = a - down * along
    return tl.where(found == 0, float("nan"), factor)
''',
    "rc_matrix_product": '''
def rc_matrix_product(x, y, row, column, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    total = tl.zeros_like(x)
    for k in range(0, size):
        down = tl.sum(tl.where(column == k, x, 0.0), axis=columns, keep_dims=True)
        total += down * tl.sum(tl.where(row == k, y, 0.0), axis=rows, keep_dims=True)
    return total
''',
    "rc_halvings": '''
def rc_halvings(a, rows: tl.constexpr, columns: tl.constexpr):
    """How often a must be halved before its norm is at most 1/2."""
    norm = tl.max(tl.sum(tl.abs(a), axis=columns, keep_dims=True), axis=rows, keep_dims=True)
    large = (norm > 0.5) & (norm < float("inf"))
    return tl.where(large, tl.ceil(tl.log2(tl.where(large, norm, 1.0))) + 1.0, 0.0)
''',
    "rc_phi1": '''
def rc_phi1(a, row, column, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    """sum over k of a^k / (k+1)!: the series of a / 2^s, whose norm is at most 1/2, then s times
    phi1(2 a) = (I + exp a) phi1(a) / 2 (Higham, Functions of Matrices, chapter 10)."""
    squarings = rc_halvings(a, rows, columns)
    small = a * tl.exp2(-squarings)
    unit = tl.where((row == column) & (row < size), 1.0, tl.zeros_like(a))
    phi = unit + small / 14.0
    for k in range(0, 12):
        phi = unit + rc_matrix_product(small, phi, row, column, size, rows, columns) / (13.0 - k)
    power = unit + rc_matrix_product(small, phi, row, column, size, rows, columns)
    most = tl.max(squarings).to(tl.int32)
    for k in range(0, most):
        again = squarings > k
        half = rc_matrix_product(unit + power, phi, row, column, size, rows, columns) * 0.5
        phi = tl.where(again, half, phi)
        power = tl.where(again, rc_matrix_product(power, power, row, column, size, rows, columns), power)
    return phi
''',
    "rc_sum_of_products": '''
def rc_sum_of_products(x, y, z, w, row, column, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    product = rc_matrix_product(x, y, row, column, size, rows, columns)
    return product + rc_matrix_product(z, w, row, column, size, rows, columns)
''',
    "rc_dphi1": '''
def rc_dphi1(a, along, row, column, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    """The derivative of phi1 at a along another matrix: the steps of `rc_phi1` beside their derivatives."""
    squarings = rc_halvings(a, rows, columns)
    small = a * tl.exp2(-squarings)
    slope = along * tl.exp2(-squarings)
    unit = tl.where((row == column) & (row < size), 1.0, tl.zeros_like(small + slope))
    phi = unit + small / 14.0
    dphi = slope / 14.0 + tl.zeros_like(phi)
    for k in range(0, 12):
        dphi = rc_sum_of_products(slope, phi, small, dphi, row, column, size, rows, columns) / (13.0 - k)
        phi = unit + rc_matrix_product(small, phi, row, column, size, rows, columns) / (13.0 - k)
    dpower = rc_sum_of_products(slope, phi, small, dphi, row, column, size, rows, columns)
    power = unit + rc_matrix_product(small, phi, row, column, size, rows, columns)
    most = tl.max(squarings).to(tl.int32)
    for k in range(0, most):
        again = squarings > k
        dhalf = rc_sum_of_products(dpower, phi, unit + power, dphi, row, column, size, rows, columns) * 0.5
        half = rc_matrix_product(unit + power, phi, row, column, size, rows, columns) * 0.5
        dsquare = rc_sum_of_products(dpower, power, power, dpower, row, column, size, rows, columns)
        phi = tl.where(again, half, phi)
        dphi = tl.where(again, dhalf, dphi)
        dpower = tl.where(again, dsquare, dpower)
        power = tl.where(again, rc_matrix_product(power, power, row, column, size, rows, columns), power)
    return dphi
''',
    "rc_times": '''
def rc_times(x, y):
    return x * y
''',
    "rc_prod": '''
def rc_prod(x, axis: tl.constexpr):
    return tl.reduce(x, axis, rc_times, keep_dims=True)
''',
    "rc_repeated": '''
def rc_repeated(x, count: tl.constexpr):
    """Every place along the first axis, `count` times."""
    if len(x.shape) == 1:
        return tl.reshape(tl.broadcast_to(x[:, None], (x.shape[0], count)), (x.shape[0] * count,))
    else:
        wide = tl.broadcast_to(x[:, None, :], (x.shape[0], count, x.shape[1]))
        return tl.reshape(wide, (x.shape[0] * count, x.shape[1]))
''',
    "rc_blocks": '''
def rc_blocks(x, rows: tl.constexpr, columns: tl.constexpr):
    """Every element of a matrix as a block of so many equal ones."""
    wide = tl.broadcast_to(x[:, None, :, None], (x.shape[0], rows, x.shape[1], columns))
    return tl.reshape(wide, (x.shape[0] * rows, x.shape[1] * columns))
''',
}  # fmt: skip

HELPER_NAMES = frozenset(_HELPERS)


def prelude(text: str) -> str:
    """The helpers that `text` uses, directly or through others, each before its users."""
    wanted: dict[str, None] = {}

    def want(body: str, me: str = "") -> None:
        for name in sorted(set(re.findall(r"\brc_\w+\b", body)) & HELPER_NAMES - {me}):
            want(_HELPERS[name], name)
            wanted.setdefault(name)

    want(text)
    return "".join(f"\n\n@triton.jit{_HELPERS[name]}" for name in wanted)
