//@ exp: clip scale
// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2; @EXP_ULP@
static inline @V@ rc_exp$(@V@ x) {
    x = rc_clip$(x, @EXP_LOW@, @EXP_HIGH@);
    const @V@ n = (x * @LOG2E@ + @MAGIC@) - @MAGIC@;
    const @V@ r = (x - n * @LN2_HIGH@) - n * @LN2_LOW@;
    const @V@ tail = @HORNER:EXP:r@;
    return rc_scale$(1 + r * (1 + r * tail), n);
}

//@ expm1: clip scale spread
// e^x - 1 without cancellation; @EXPM1_ULP@
static inline @V@ rc_expm1$(@V@ x) {
    x = rc_clip$(x, @EXPM1_LOW@, @EXP_HIGH@);
    const @V@ n = (x * @LOG2E@ + @MAGIC@) - @MAGIC@;
    const @V@ r = (x - n * @LN2_HIGH@) - n * @LN2_LOW@;
    const @V@ tail = @HORNER:EXP:r@;
    const @V@ inverse = rc_scale$(rc_spread$(1), -n);
    return rc_scale$((1 - inverse) + (r + r * r * tail), n);
}

//@ log_parts: bits real to_real
// log(x) for normal x > 0, plus `more`: x = 2^e m with m in [sqrt(1/2), sqrt(2)), log m through atanh
static inline @V@ rc_log_parts$(@V@ x, @V@ more) {
    const @I@ shifted = rc_bits$(x) - @SQRT_HALF_BITS@;
    const @V@ e = rc_to_real$(shifted >> @MANTISSA@) + more;
    const @V@ f = rc_real$((shifted & @MANTISSA_MASK@) + @SQRT_HALF_BITS@) - 1;
    const @V@ s = f / (2 + f), z = s * s;
    const @V@ series = @HORNER:LOG:z@;
    return e * @LN2_HIGH@ + (f - (s * (f - z * series) - e * @LN2_LOW@));
}

//@ log: log_parts select spread
// natural logarithm; 0 gives -inf, negative numbers NaN; @LOG_ULP@
static inline @V@ rc_log$(@V@ x) {
    const @V@ zero = rc_spread$(0);
    const @V@ small = rc_select$(x < @TINY@, rc_spread$(@LIFT@), rc_spread$(1));
    const @V@ more = rc_select$(x < @TINY@, rc_spread$(-@LIFT_BITS@), zero);
    @V@ y = rc_log_parts$(x * small, more);
    y = rc_select$(x == zero, rc_spread$(-INFINITY), y);
    y = rc_select$(x < zero, rc_spread$(NAN), y);
    return rc_select$((x == rc_spread$(INFINITY)) | (x != x), x, y);
}

//@ log1p: log select spread
// log(1 + x); what rounding took from 1 + x is put back; @LOG1P_ULP@
static inline @V@ rc_log1p$(@V@ x) {
    const @V@ u = 1 + x;
    const @V@ y = rc_log$(u) + (x - (u - 1)) / u;
    return rc_select$((u == rc_spread$(0)) | (u == rc_spread$(INFINITY)), rc_log$(u), y);
}

//@ log1p_exp: exp log_parts abs spread
// log(1 + e^-|x|)
static inline @V@ rc_log1p_exp$(@V@ x) {
    const @V@ e = rc_exp$(-rc_abs$(x)), u = 1 + e;
    return rc_log_parts$(u, rc_spread$(0)) + (e - (u - 1)) / u;
}

//@ softplus: log1p_exp max spread
// log(1 + e^x), linear for large x; @SOFTPLUS_ULP@
static inline @V@ rc_softplus$(@V@ x) { return rc_max$(x, rc_spread$(0)) + rc_log1p_exp$(x); }

//@ logaddexp: log1p_exp max select
// log(e^a + e^b); two equal infinities stay what they are
static inline @V@ rc_logaddexp$(@V@ a, @V@ b) {
    return rc_select$(a == b, a + @LN2@, rc_max$(a, b) + rc_log1p_exp$(a - b));
}

//@ sigmoid: exp abs select spread
// 1 / (1 + e^-x), accurate and free of overflow at both ends; @SIGMOID_ULP@
static inline @V@ rc_sigmoid$(@V@ x) {
    const @V@ e = rc_exp$(-rc_abs$(x));
    return rc_select$(x < rc_spread$(0), e, rc_spread$(1)) / (1 + e);
}

//@ tanh: expm1 abs select spread
// m / (m + 2) with m = e^2|x| - 1 and the sign of x; @TANH_ULP@
static inline @V@ rc_tanh$(@V@ x) {
    const @V@ m = rc_expm1$(rc_clip$(2 * rc_abs$(x), 0, @TANH_END@));
    const @V@ y = m / (m + 2);
    return rc_select$(x < rc_spread$(0), -y, rc_select$(x == rc_spread$(0), x, y));
}
