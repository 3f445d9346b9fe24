//@ spread:
static inline @T@ rc_spread$(@T@ x) { return x; }

//@ bits:
static inline @I@ rc_bits$(@T@ x) { @I@ i; memcpy(&i, &x, sizeof i); return i; }

//@ real:
static inline @T@ rc_real$(@I@ i) { @T@ x; memcpy(&x, &i, sizeof x); return x; }

//@ to_int:
static inline @I@ rc_to_int$(@T@ x) { return (@I@)x; }

//@ to_real:
static inline @T@ rc_to_real$(@I@ i) { return (@T@)i; }

//@ select:
static inline @T@ rc_select$(int c, @T@ a, @T@ b) { return c ? a : b; }

//@ clip:
// x in [lo, hi]; NaN stays NaN
static inline @T@ rc_clip$(@T@ x, @T@ lo, @T@ hi) { x = x < lo ? lo : x; return x > hi ? hi : x; }

//@ scale: bits real to_int
// x * 2^n for integral n, also where 2^n alone would overflow or be denormal
static inline @T@ rc_scale$(@T@ x, @T@ n) {
    const @I@ i = rc_to_int$(n), half = i >> 1;
    return x * rc_real$((half + @BIAS@) << @MANTISSA@) * rc_real$((i - half + @BIAS@) << @MANTISSA@);
}

//@ max:
// the larger one; a tie is the first operand's, NaN wins
static inline @T@ rc_max$(@T@ a, @T@ b) { return a >= b || a != a ? a : b; }

//@ min:
static inline @T@ rc_min$(@T@ a, @T@ b) { return a <= b || a != a ? a : b; }

//@ abs:
static inline @T@ rc_abs$(@T@ x) { return __builtin_fabs@F@(x); }

//@ sign:
static inline @T@ rc_sign$(@T@ x) { return x != x ? x : (@T@)((x > 0) - (x < 0)); }

//@ floor:
static inline @T@ rc_floor$(@T@ x) { return __builtin_floor@F@(x); }

//@ round:
// to the nearest integer, ties to even
static inline @T@ rc_round$(@T@ x) { return __builtin_rint@F@(x); }

//@ half: abs bits real
// to what f16 holds, ties to even
static inline @T@ rc_half$(@T@ x) {
    const @T@ a = rc_abs$(x) < 65536 ? rc_abs$(x) : 65536;
    const @I@ i = rc_bits$(a), up = i + @HALF_BELOW@ + (i >> @HALF_DROPPED@ & 1);
    const @T@ normal = rc_real$(up >> @HALF_DROPPED@ << @HALF_DROPPED@);
    const @T@ r = a < @HALF_NORMAL@ ? (a + @HALF_SHIFT@) - @HALF_SHIFT@ : normal;
    return r < 65536 ? __builtin_copysign@F@(r, x) : x * INFINITY;
}

//@ bfloat:
// to what bf16 holds, ties to even; by way of f32, as hardware does
static inline @T@ rc_bfloat$(@T@ x) {
    float f = (float)x;
    uint32_t i;
    memcpy(&i, &f, sizeof i);
    i = (i + 0x7fff + (i >> 16 & 1)) & 0xffff0000u;
    memcpy(&f, &i, sizeof f);
    return x == x ? f : x;
}

//@ sqrt:
static inline @T@ rc_sqrt$(@T@ x) { return __builtin_sqrt@F@(x); }

//@ rsqrt:
static inline @T@ rc_rsqrt$(@T@ x) { return 1 / __builtin_sqrt@F@(x); }

//@ atan2:
static inline @T@ rc_atan2$(@T@ y, @T@ x) { return atan2@F@(y, x); }

//@ sin:
static inline @T@ rc_sin$(@T@ x) { return sin@F@(x); }

//@ cos:
static inline @T@ rc_cos$(@T@ x) { return cos@F@(x); }

//@ erf:
static inline @T@ rc_erf$(@T@ x) { return erf@F@(x); }

//@ pow:
static inline @T@ rc_pow$(@T@ x, @T@ y) { return pow@F@(x, y); }

//@ floordiv:
static inline @T@ rc_floordiv$(@T@ x, @T@ y) {
    @T@ rest = fmod@F@(x, y);
    if (rest != 0 && (rest < 0) != (y < 0)) rest += y;
    return y == 0 ? x / y : rint@F@((x - rest) / y);
}

//@ mod:
// the remainder of the floor division: it has the sign of y
static inline @T@ rc_mod$(@T@ x, @T@ y) {
    @T@ rest = fmod@F@(x, y);
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}
