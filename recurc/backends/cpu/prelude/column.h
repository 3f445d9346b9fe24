// Vectors beside the matrices of a chunk: sums along them, and their steps.

// left . right, of `width` numbers: a multiple of LANES.
INLINE real rc_along(const real *left, const real *right, long width) {
    vec sum = {0};
    for (long n = 0; n < width; n += LANES) sum += *(const vec *)(left + n) * *(const vec *)(right + n);
    real total = 0;
    UNROLL for (long n = 0; n < LANES; n++) total += sum[n];
    return total;
}

// A vector takes one step: it decays (`by`: of each number, or `alone` for all; null: not at all) and takes in a key
// times a number.
INLINE void rc_key_added(real *vector, const real *by, int alone, const real *key, real times, int decays, long width) {
    for (long n = 0; n < width; n += LANES) {
        vec old = *(const vec *)(vector + n);
        if (decays && by && alone) old *= by[0];
        if (decays && by && !alone) old *= *(const vec *)(by + n);
        *(vec *)(vector + n) = old + times * *(const vec *)(key + n);
    }
}
