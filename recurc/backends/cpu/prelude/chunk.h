// Chunks of STEPS steps of matrix states: products of small matrices whose rows are whole vectors.

// A tile of R rows and W vectors of out (+)= a b: its sums stay in registers.
INLINE void rc_tile(
    real *out, long out_row, const real *a, long a_row, const real *b, long b_row, long inner, int add, const long R,
    const long W
) {
    vec sum[4][4], of_b[4];
    UNROLL for (long r = 0; r < R; r++)
        UNROLL for (long w = 0; w < W; w++)
            sum[r][w] = add ? *(const vec *)(out + r * out_row + w * LANES) : (vec){0};
    for (long p = 0; p < inner; p++) {
        UNROLL for (long w = 0; w < W; w++) of_b[w] = *(const vec *)(b + p * b_row + w * LANES);
        UNROLL for (long r = 0; r < R; r++)
            UNROLL for (long w = 0; w < W; w++) sum[r][w] += a[r * a_row + p] * of_b[w];
    }
    UNROLL for (long r = 0; r < R; r++)
        UNROLL for (long w = 0; w < W; w++) *(vec *)(out + r * out_row + w * LANES) = sum[r][w];
}

// out (rows by width) = a (rows by inner) b (inner by width), or is added to; width is a multiple of LANES.
static void rc_product(
    real *out, long out_row, const real *a, long a_row, const real *b, long b_row, long rows, long inner, long width,
    int add
) {
    enum { MOST = RC_VECTOR_BYTES == 64 ? 4 : 2 };
    long w = 0;
    for (; w + MOST * LANES <= width; w += MOST * LANES) {
        long r = 0;
        for (; r + 4 <= rows; r += 4)
            rc_tile(out + r * out_row + w, out_row, a + r * a_row, a_row, b + w, b_row, inner, add, 4, MOST);
        for (; r < rows; r++)
            rc_tile(out + r * out_row + w, out_row, a + r * a_row, a_row, b + w, b_row, inner, add, 1, MOST);
    }
    for (; w < width; w += LANES) {
        long r = 0;
        for (; r + 4 <= rows; r += 4)
            rc_tile(out + r * out_row + w, out_row, a + r * a_row, a_row, b + w, b_row, inner, add, 4, 1);
        for (; r < rows; r++)
            rc_tile(out + r * out_row + w, out_row, a + r * a_row, a_row, b + w, b_row, inner, add, 1, 1);
    }
}

// Row i of `pairs` (STEPS + 1 by STEPS) has at j < i the product of the decays of the steps after j and before i, and
// zeros from j = i on. Nothing is divided: a decay may be zero.
static void rc_pairs(real *pairs, const real *decay) {
    for (long j = 0; j < STEPS; j++) pairs[j] = 0;
    for (long i = 0; i < STEPS; i++)
        for (long j = 0; j < STEPS; j++)
            pairs[(i + 1) * STEPS + j] = j < i ? pairs[i * STEPS + j] * decay[i] : j == i;
}

// Products of the decays before each step, (STEPS + 1 by width).
static void rc_before(real *before, const real *decay, long width) {
    for (long n = 0; n < width; n++) before[n] = 1;
    for (long i = 0; i < STEPS; i++)
        for (long n = 0; n < width; n++) before[(i + 1) * width + n] = before[i * width + n] * decay[i * width + n];
}

// weights[i][j] = left[i] . key[j] times the decays between them, for j < i (`now`: j <= i), else 0. No pairs: no decay.
static void rc_weights(
    real *weights, const real *left, long left_row, const real *keys, long rows, const real *pairs, int now
) {
    rc_product(weights, STEPS, left, left_row, keys, STEPS, STEPS, rows, STEPS, 0);
    for (long i = 0; i < STEPS; i++)
        for (long j = 0; j < STEPS; j++) {
            const real by = pairs ? pairs[(i + now) * STEPS + j] : 1;
            weights[i * STEPS + j] = j < i + now ? weights[i * STEPS + j] * by : 0;
        }
}

// Several states, whose small matrix of factors stands in for a decay: before[a * states + b][i] is what the steps before
// i bring from state b into a, and pairs[a * states + b] has, as in `rc_pairs`, what those between two steps bring. Null
// where there is no way, or no factor.
static void rc_kernel(real *const *before, real *const *pairs, const real *const *factors, const long states) {
    for (long a = 0; a < states; a++)
        for (long c = 0; c < states; c++) {
            if (!pairs[a * states + c]) continue;
            before[a * states + c][0] = a == c;
            for (long j = 0; j < STEPS; j++) pairs[a * states + c][j] = 0;
        }
    for (long i = 0; i < STEPS; i++)
        for (long a = 0; a < states; a++)
            for (long c = 0; c < states; c++) {
                if (!pairs[a * states + c]) continue;
                real all = 0, each[STEPS] ALIGNED;
                for (long j = 0; j < STEPS; j++) each[j] = 0;
                for (long b = 0; b < states; b++) {
                    if (!factors[a * states + b] || !pairs[b * states + c]) continue;
                    const real factor = factors[a * states + b][i];
                    all += factor * before[b * states + c][i];
                    for (long j = 0; j < STEPS; j++) each[j] += factor * pairs[b * states + c][i * STEPS + j];
                }
                before[a * states + c][i + 1] = all;
                real *const now = pairs[a * states + c] + (i + 1) * STEPS;
                for (long j = 0; j < STEPS; j++) now[j] = j < i ? each[j] : j == i && a == c;
            }
}

// The same for `rank` rows of each of the steps first..last and `other` keys in each step (side by side): (last - first)
// rank by STEPS other. Columns behind the last earlier key hold zeros only up to a whole vector where there is one step.
static void rc_weights_of_ranks(
    real *weights, const real *left, long left_row, long rank, const real *keys, long other, long rows,
    const real *pairs, long first, long last, int now
) {
    const long width = STEPS * other, known = (last - 1 + now) * other, some = (known + LANES - 1) / LANES * LANES;
    const long wide = last - first > 1 ? width : some;
    rc_product(weights, width, left + first * rank * left_row, left_row, keys, width, (last - first) * rank, rows, wide, 0);
    for (long i = first; i < last; i++)
        for (long r = 0; r < rank; r++) {
            real *const row = weights + ((i - first) * rank + r) * width;
            for (long j = 0; j < i + now; j++)
                for (long m = 0; m < other; m++) row[j * other + m] *= pairs ? pairs[(i + now) * STEPS + j] : 1;
            for (long n = (i + now) * other; n < wide; n++) row[n] = 0;
        }
}

// One row of sums over all keys, which lie side by side in a vector (or a few).
static void rc_dots(real *out, const real *left, const real *keys, long rows) {
    for (long j = 0; j < STEPS; j += LANES) {
        vec sum[4] = {{0}, {0}, {0}, {0}};
        long k = 0;
        for (; k + 4 <= rows; k += 4)
            UNROLL for (long m = 0; m < 4; m++) sum[m] += left[k + m] * *(const vec *)(keys + (k + m) * STEPS + j);
        for (; k < rows; k++) sum[0] += left[k] * *(const vec *)(keys + k * STEPS + j);
        *(vec *)(out + j) = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

// The same where each row has its own decay, for several left sides: the keys take in the decays as the steps pass, and
// in the end hold those of all the steps after them.
static void rc_weights_by_rows(
    real *moved, const real *decay, long decay_row, long rows, long count, const real *const *left, long left_row,
    real *const *weights, const int *now
) {
    for (long i = 0; i < STEPS; i++) {
        for (long n = 0; n < count; n++)
            if (!now[n]) rc_dots(weights[n] + i * STEPS, left[n] + i * left_row, moved, rows);
        real below[STEPS] ALIGNED, rest[STEPS] ALIGNED;
        for (long j = 0; j < STEPS; j++) below[j] = j < i, rest[j] = j >= i;
        for (long j = 0; j < STEPS; j += LANES) {
            const vec some = *(const vec *)(below + j), others = *(const vec *)(rest + j);
            for (long k = 0; k < rows; k++)
                *(vec *)(moved + k * STEPS + j) *= decay[i * decay_row + k] * some + others;
        }
        for (long n = 0; n < count; n++)
            if (now[n]) rc_dots(weights[n] + i * STEPS, left[n] + i * left_row, moved, rows);
    }
    for (long n = 0; n < count; n++)
        for (long i = 0; i < STEPS; i++)
            for (long j = i + now[n]; j < STEPS; j++) weights[n][i * STEPS + j] = 0;
}

// out (count by width) = weights rows where each column has its own decay, which the rows take in as the steps pass.
static void rc_reads_by_columns(
    real *moved, const real *decay, long width, long count, real *const *weights, real *const *out, const int *now
) {
    for (long i = 0; i < STEPS; i++) {
        for (long n = 0; n < count; n++)
            if (!now[n])
                rc_product(out[n] + i * width, width, weights[n] + i * STEPS, STEPS, moved, width, 1, i, width, 1);
        for (long j = 0; j < i; j++)
            for (long v = 0; v < width; v += LANES)
                *(vec *)(moved + j * width + v) *= *(const vec *)(decay + i * width + v);
        for (long n = 0; n < count; n++)
            if (now[n])
                rc_product(out[n] + i * width, width, weights[n] + i * STEPS, STEPS, moved, width, 1, i + 1, width, 1);
    }
}

// out = left times `by`, (STEPS by width); by_row: 1 where `by` has one number per step.
static void rc_scaled(real *out, const real *left, const real *by, long width, int alone) {
    for (long i = 0; i < STEPS; i++)
        for (long n = 0; n < width; n++) out[i * width + n] = left[i * width + n] * by[alone ? i : i * width + n];
}

// The same by one number per step, for `rank` rows of each step.
static void rc_scaled_lines(real *out, const real *left, const real *by, long width, long rank) {
    for (long i = 0; i < STEPS * rank; i++)
        for (long n = 0; n < width; n++) out[i * width + n] = left[i * width + n] * by[i / rank];
}

// out = (or +=) state times a number; count is a multiple of LANES.
static void rc_scaled_state(real *out, const real *state, real by, long count, int add) {
    for (long n = 0; n < count; n += LANES) {
        const vec scaled = by * *(const vec *)(state + n);
        if (add)
            *(vec *)(out + n) += scaled;
        else
            *(vec *)(out + n) = scaled;
    }
}

// The state after decay: one number for all, for each row or for each column.
INLINE void rc_decayed(real *out, const real *state, const real *by, long rows, long width, const int along) {
    for (long k = 0; k < rows; k++)
        for (long v = 0; v < width; v += LANES) {
            const vec old = *(const vec *)(state + k * width + v);
            *(vec *)(out + k * width + v) = along == 0 ? by[0] * old
                                            : along == 1 ? by[k] * old : *(const vec *)(by + v) * old;
        }
}

// Whether all of it is finite; `count` is a multiple of LANES.
static int rc_all_finite(const real *x, long count) {
    vec off = {0};
    for (long n = 0; n < count; n += LANES) {
        const vec some = *(const vec *)(x + n);
        off += some - some;
    }
    for (long n = 0; n < LANES; n++)
        if (!(off[n] == 0)) return 0;
    return 1;
}
