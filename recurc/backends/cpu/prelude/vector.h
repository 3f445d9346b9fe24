// Instructions that C has no words for are written in assembly: <immintrin.h> declares thousands, and every build would
// read them all.

//@ spread:
static inline @V@ rc_spread$(@T@ x) { return x - (@V@){0}; }  // -0.0 stays -0.0

//@ count:
// first, first + 1, first + 2, ...
static inline @V@ rc_count$(long first) {
    @V@ x;
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = (@T@)(first + i);
    return x;
}

//@ spread_mask:
static inline @M@ rc_spread_mask$(int c) { return (@M@){0} - (c != 0); }

//@ bits:
static inline @M@ rc_bits$(@V@ x) { return (@M@)x; }

//@ real:
static inline @V@ rc_real$(@M@ i) { return (@V@)i; }

//@ to_int:
static inline @M@ rc_to_int$(@V@ x) { return __builtin_convertvector(x, @M@); }

//@ to_real:
static inline @V@ rc_to_real$(@M@ i) { return __builtin_convertvector(i, @V@); }

//@ select:
static inline @V@ rc_select$(@M@ c, @V@ a, @V@ b) { return (@V@)((c & (@M@)a) | (~c & (@M@)b)); }

//@ not:
static inline @M@ rc_not$(@M@ c) { return ~c; }

//@ clip: select spread
// x in [lo, hi]; NaN stays NaN
static inline @V@ rc_clip$(@V@ x, @T@ lo, @T@ hi) {
#if defined __AVX512F__ && RC_VECTOR_BYTES == 64 || defined __AVX__ && RC_VECTOR_BYTES == 32
    __asm__("vmax@P@ %1, %2, %0\n\tvmin@P@ %0, %3, %0" : "=&v"(x) : "v"(x), "v"(rc_spread$(lo)), "v"(rc_spread$(hi)));
    return x;
#else
    x = rc_select$(x < lo, rc_spread$(lo), x);
    return rc_select$(x > hi, rc_spread$(hi), x);
#endif
}

//@ scale: bits real to_int
// x * 2^n for integral n, also where 2^n alone would overflow or be denormal
static inline @V@ rc_scale$(@V@ x, @V@ n) {
#if defined __AVX512F__ && RC_VECTOR_BYTES == 64
    __asm__("vscalef@P@ %1, %2, %0" : "=v"(x) : "v"(n), "v"(x));
    return x;
#else
    const @M@ i = rc_to_int$(n), half = i >> 1;
    return x * rc_real$((half + @BIAS@) << @MANTISSA@) * rc_real$((i - half + @BIAS@) << @MANTISSA@);
#endif
}

//@ max: select
// the larger one; a tie is the first operand's, NaN wins
static inline @V@ rc_max$(@V@ a, @V@ b) { return rc_select$((a >= b) | (a != a), a, b); }

//@ min: select
static inline @V@ rc_min$(@V@ a, @V@ b) { return rc_select$((a <= b) | (a != a), a, b); }

//@ abs:
static inline @V@ rc_abs$(@V@ x) { return (@V@)((@M@)x & @ABSMASK@); }

//@ sign: select spread
static inline @V@ rc_sign$(@V@ x) {
    const @V@ one = rc_spread$(1), zero = rc_spread$(0);
    return rc_select$(x > 0, one, rc_select$(x < 0, -one, rc_select$(x == 0, zero, x)));
}

//@ floor:
static inline @V@ rc_floor$(@V@ x) {
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = __builtin_floor@F@(x[i]);
    return x;
}

//@ round:
// to the nearest integer, ties to even
static inline @V@ rc_round$(@V@ x) {
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = __builtin_rint@F@(x[i]);
    return x;
}

//@ half:
static inline @V@ rc_half$(@V@ x) {
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = rc_half_@REAL@(x[i]);
    return x;
}

//@ bfloat:
static inline @V@ rc_bfloat$(@V@ x) {
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = rc_bfloat_@REAL@(x[i]);
    return x;
}

//@ sqrt:
static inline @V@ rc_sqrt$(@V@ x) {
#if defined __AVX512F__ && RC_VECTOR_BYTES == 64
    __asm__("vsqrt@P@ %1, %0" : "=v"(x) : "v"(x));
    return x;
#else
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = __builtin_sqrt@F@(x[i]);
    return x;
#endif
}

//@ rsqrt: sqrt
static inline @V@ rc_rsqrt$(@V@ x) { return 1 / rc_sqrt$(x); }

//@ atan2:
static inline @V@ rc_atan2$(@V@ y, @V@ x) {
    for (int i = 0; i < RC_LANES$; i++) x[i] = atan2@F@(y[i], x[i]);
    return x;
}

//@ sin:
static inline @V@ rc_sin$(@V@ x) {
    for (int i = 0; i < RC_LANES$; i++) x[i] = sin@F@(x[i]);
    return x;
}

//@ cos:
static inline @V@ rc_cos$(@V@ x) {
    for (int i = 0; i < RC_LANES$; i++) x[i] = cos@F@(x[i]);
    return x;
}

//@ erf:
static inline @V@ rc_erf$(@V@ x) {
    for (int i = 0; i < RC_LANES$; i++) x[i] = erf@F@(x[i]);
    return x;
}

//@ pow:
static inline @V@ rc_pow$(@V@ x, @V@ y) {
    for (int i = 0; i < RC_LANES$; i++) x[i] = pow@F@(x[i], y[i]);
    return x;
}

//@ mod:
// the remainder of the floor division: it has the sign of y
static inline @V@ rc_mod$(@V@ x, @V@ y) {
    for (int i = 0; i < RC_LANES$; i++) {
        const @T@ rest = fmod@F@(x[i], y[i]);
        x[i] = rest != 0 && (rest < 0) != (y[i] < 0) ? rest + y[i] : rest;
    }
    return x;
}

//@ floordiv: mod
static inline @V@ rc_floordiv$(@V@ x, @V@ y) {
    const @V@ rest = rc_mod$(x, y);
    for (int i = 0; i < RC_LANES$; i++) x[i] = y[i] == 0 ? x[i] / y[i] : rint@F@((x[i] - rest[i]) / y[i]);
    return x;
}

//@ load:
// a full vector from anywhere
static inline @V@ rc_load$(const @T@ *p) { @V@ x; memcpy(&x, p, sizeof x); return x; }

//@ store:
static inline void rc_store$(@T@ *p, @V@ x) { memcpy(p, &x, sizeof x); }

//@ stream: store
// around the caches, for results larger than the last one; p is aligned to a vector
static inline void rc_stream$(@T@ *p, @V@ x) {
#if defined __AVX512F__ && RC_VECTOR_BYTES == 64 || defined __AVX__ && RC_VECTOR_BYTES == 32
    __asm__ volatile("vmovnt@P@ %1, %0" : "=m"(*(@V@ *)p) : "v"(x));
#else
    rc_store$(p, x);
#endif
}

//@ choose:
// elements of two vectors by their numbers: those of b follow those of a
INLINE @V@ rc_choose$(@V@ a, @V@ b, @M@ which) {
#if defined __clang__
    @V@ out;
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) out[i] = which[i] < RC_LANES$ ? a[which[i]] : b[which[i] - RC_LANES$];
    return out;
#else
    return (@V@)__builtin_shuffle(a, b, which);
#endif
}

//@ evens: load choose
// the real parts of a vector of complex numbers from p on: every second element of two vectors
static inline @V@ rc_evens$(const @T@ *p) {
    const @V@ a = rc_load$(p), b = rc_load$(p + RC_LANES$);
    @M@ which;
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) which[i] = 2 * i;
    return rc_choose$(a, b, which);
}

//@ odds: load choose
// the imaginary parts
static inline @V@ rc_odds$(const @T@ *p) {
    const @V@ a = rc_load$(p), b = rc_load$(p + RC_LANES$);
    @M@ which;
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) which[i] = 2 * i + 1;
    return rc_choose$(a, b, which);
}

//@ evens_part: load_part choose
static inline @V@ rc_evens_part$(const @T@ *p, long lanes) {
    const long more = 2 * lanes > RC_LANES$ ? 2 * lanes - RC_LANES$ : 0;
    const @V@ a = rc_load_part$(p, 2 * lanes), b = rc_load_part$(p + (more ? RC_LANES$ : 0), more);
    @M@ which;
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) which[i] = 2 * i;
    return rc_choose$(a, b, which);
}

//@ odds_part: load_part choose
static inline @V@ rc_odds_part$(const @T@ *p, long lanes) {
    const long more = 2 * lanes > RC_LANES$ ? 2 * lanes - RC_LANES$ : 0;
    const @V@ a = rc_load_part$(p, 2 * lanes), b = rc_load_part$(p + (more ? RC_LANES$ : 0), more);
    @M@ which;
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) which[i] = 2 * i + 1;
    return rc_choose$(a, b, which);
}

//@ mixed: choose
// the first (second) half of the pairs of two vectors
static inline @V@ rc_mixed$(@V@ re, @V@ im, int half) {
    @M@ which;
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) which[i] = (i + half * RC_LANES$) / 2 + i % 2 * RC_LANES$;
    return rc_choose$(re, im, which);
}

//@ store_pairs: mixed store
// a vector of complex numbers
static inline void rc_store_pairs$(@T@ *p, @V@ re, @V@ im) {
    rc_store$(p, rc_mixed$(re, im, 0));
    rc_store$(p + RC_LANES$, rc_mixed$(re, im, 1));
}

//@ stream_pairs: mixed stream
static inline void rc_stream_pairs$(@T@ *p, @V@ re, @V@ im) {
    rc_stream$(p, rc_mixed$(re, im, 0));
    rc_stream$(p + RC_LANES$, rc_mixed$(re, im, 1));
}

//@ store_pairs_part: mixed store_part
static inline void rc_store_pairs_part$(@T@ *p, @V@ re, @V@ im, long lanes) {
    rc_store_part$(p, rc_mixed$(re, im, 0), 2 * lanes);
    if (2 * lanes > RC_LANES$) rc_store_part$(p + RC_LANES$, rc_mixed$(re, im, 1), 2 * lanes - RC_LANES$);
}

//@ load_part:
// the first `lanes` elements, zeros after them
static inline @V@ rc_load_part$(const @T@ *p, long lanes) {
#if defined __AVX512F__ && RC_VECTOR_BYTES == 64
    const uint16_t mask = (uint16_t)(lanes >= @LANES@ ? -1 : (1 << lanes) - 1);
    const struct { @T@ of[@LANES@]; } *from = (const void *)p;
    @V@ x;
    __asm__("vmovu@P@ %1, %0%{%2%}%{z%}" : "=v"(x) : "m"(*from), "Yk"(mask));
    return x;
#else
    @V@ x = {0};
    if (lanes >= RC_LANES$) memcpy(&x, p, sizeof x);
    else for (int i = 0; i < lanes; i++) x[i] = p[i];
    return x;
#endif
}

//@ store_part:
static inline void rc_store_part$(@T@ *p, @V@ x, long lanes) {
#if defined __AVX512F__ && RC_VECTOR_BYTES == 64
    const uint16_t mask = (uint16_t)(lanes >= @LANES@ ? -1 : (1 << lanes) - 1);
    struct { @T@ of[@LANES@]; } *to = (void *)p;
    __asm__("vmovu@P@ %1, %0%{%2%}" : "+m"(*to) : "v"(x), "Yk"(mask));
#else
    if (lanes >= RC_LANES$) memcpy(p, &x, sizeof x);
    else for (int i = 0; i < lanes; i++) p[i] = x[i];
#endif
}

//@ gather:
// every stride-th element
static inline @V@ rc_gather$(const @T@ *p, long stride, long lanes) {
    @V@ x = {0};
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = i < lanes ? p[i * stride] : 0;
    return x;
}

//@ pack: load gather
// One param of a panel: vector k, `count` vectors after the one before, has the elements w[k * step + lane * stride].
static __attribute__((noinline)) void rc_pack$(@V@ *panel, long count, const @T@ *w, long n, long step, long stride, long lanes) {
    for (long k = 0; k < n; k++, panel += count, w += step)
        *panel = stride == 1 && lanes == RC_LANES$ ? rc_load$(w) : rc_gather$(w, stride, lanes);
}

//@ dots: load load_part sum_lanes
// lane i: the sum of w[i * n + k] * x[k] over k < n; reads the rows of w in memory order, four at a time
static inline @V@ rc_dots$(const @T@ *w, const @T@ *x, long n, long lanes) {
    @V@ out = {0};
    for (long i = 0; i < lanes; i += 4) {
        const @T@ *row[4];
        for (int r = 0; r < 4; r++) row[r] = w + (i + r < lanes ? i + r : i) * n;
        @V@ sum[4] = {{0}};
        long k = 0;
        for (; k + RC_LANES$ <= n; k += RC_LANES$) {
            const @V@ part = rc_load$(x + k);
            for (int r = 0; r < 4; r++) sum[r] += rc_load$(row[r] + k) * part;
        }
        if (k < n) {
            const @V@ part = rc_load_part$(x + k, n - k);
            for (int r = 0; r < 4; r++) sum[r] += rc_load_part$(row[r] + k, n - k) * part;
        }
        for (int r = 0; r < 4; r++)
            if (i + r < lanes) out[i + r] = rc_sum_lanes$(sum[r]);
    }
    return out;
}

//@ scatter:
static inline void rc_scatter$(@T@ *p, long stride, @V@ x, long lanes) {
    UNROLL
    for (int i = 0; i < RC_LANES$; i++)
        if (i < lanes) p[i * stride] = x[i];
}

//@ keep: select spread
// x in the first `lanes` lanes, `neutral` in the others
static inline @V@ rc_keep$(@V@ x, long lanes, @T@ neutral) {
    UNROLL
    for (int i = 0; i < RC_LANES$; i++) x[i] = i < lanes ? x[i] : neutral;
    return x;
}

//@ sum_lanes:
static inline @T@ rc_sum_lanes$(@V@ x) {
    @T@ out = x[0];
    for (int i = 1; i < RC_LANES$; i++) out += x[i];
    return out;
}

//@ prod_lanes:
static inline @T@ rc_prod_lanes$(@V@ x) {
    @T@ out = x[0];
    for (int i = 1; i < RC_LANES$; i++) out *= x[i];
    return out;
}

//@ max_lanes:
static inline @T@ rc_max_lanes$(@V@ x) {
    @T@ out = x[0];
    for (int i = 1; i < RC_LANES$; i++) out = out >= x[i] || out != out ? out : x[i];
    return out;
}

//@ min_lanes:
static inline @T@ rc_min_lanes$(@V@ x) {
    @T@ out = x[0];
    for (int i = 1; i < RC_LANES$; i++) out = out <= x[i] || out != out ? out : x[i];
    return out;
}
