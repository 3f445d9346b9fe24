// Vectors beside the matrices of a chunk: sums along them, and their steps. A vector that is at work is held in
// registers, as `count` vectors of lanes.

// row . vector
INLINE real rc_along(const real *row, const vec *vector, const long count) {
    vec sum = {0};
    UNROLL for (long n = 0; n < count; n++) sum += *(const vec *)(row + n * LANES) * vector[n];
    real total = 0;
    UNROLL for (long n = 0; n < LANES; n++) total += sum[n];
    return total;
}

// A vector decays, by one number or (`each`) each of its numbers by its own.
INLINE void rc_vector_decayed(vec *vector, const real *by, const int each, const long count) {
    UNROLL for (long n = 0; n < count; n++) vector[n] = each ? *(const vec *)(by + n * LANES) * vector[n] : by[0] * vector[n];
}

// A vector takes in a key times a number.
INLINE void rc_key_added(vec *vector, const real *key, real times, const long count) {
    UNROLL for (long n = 0; n < count; n++) vector[n] += times * *(const vec *)(key + n * LANES);
}
