//@ times:
// out = a b, or out += a b, of n by n matrices
static void rc_plus_times$(long n, const @T@ *a, const @T@ *b, @T@ *out) {
    for (long i = 0; i < n; i++)
        for (long k = 0; k < n; k++)
            for (long j = 0; j < n; j++) out[i * n + j] += a[i * n + k] * b[k * n + j];
}

static void rc_times$(long n, const @T@ *a, const @T@ *b, @T@ *out) {
    for (long i = 0; i < n * n; i++) out[i] = 0;
    rc_plus_times$(n, a, b, out);
}

//@ solve: abs
// X with A X = B takes the place of B (n by m), A (n by n) is used up: elimination with partial pivoting. All of X is
// NaN where A is singular.
static void rc_solve$(long n, long m, @T@ *a, @T@ *b) {
    for (long k = 0; k < n; k++) {
        long pivot = k;
        for (long i = k + 1; i < n; i++)
            if (rc_abs$(a[i * n + k]) > rc_abs$(a[pivot * n + k])) pivot = i;
        if (a[pivot * n + k] == 0) {
            for (long i = 0; i < n * m; i++) b[i] = NAN;
            return;
        }
        if (pivot != k) {
            for (long j = k; j < n; j++) {
                const @T@ kept = a[k * n + j];
                a[k * n + j] = a[pivot * n + j];
                a[pivot * n + j] = kept;
            }
            for (long j = 0; j < m; j++) {
                const @T@ kept = b[k * m + j];
                b[k * m + j] = b[pivot * m + j];
                b[pivot * m + j] = kept;
            }
        }
        for (long i = k + 1; i < n; i++) {
            const @T@ share = a[i * n + k] / a[k * n + k];
            for (long j = k + 1; j < n; j++) a[i * n + j] -= share * a[k * n + j];
            for (long j = 0; j < m; j++) b[i * m + j] -= share * b[k * m + j];
        }
    }
    for (long k = n - 1; k >= 0; k--) {
        for (long j = 0; j < m; j++) b[k * m + j] /= a[k * n + k];
        for (long i = 0; i < k; i++)
            for (long j = 0; j < m; j++) b[i * m + j] -= a[i * n + k] * b[k * m + j];
    }
}

//@ inv: solve
// the inverse of A takes the place of B; A is used up
static void rc_inv$(long n, @T@ *a, @T@ *b) {
    for (long i = 0; i < n * n; i++) b[i] = i % (n + 1) == 0;
    rc_solve$(n, n, a, b);
}

//@ cholesky:
// lower triangular L with L L^T = A takes the place of A, of which only the lower triangle is read; NaN where A is not
// positive definite
static void rc_cholesky$(long n, @T@ *a) {
    for (long j = 0; j < n; j++) {
        @T@ left = a[j * n + j];
        for (long k = 0; k < j; k++) left -= a[j * n + k] * a[j * n + k];
        if (!(left > 0)) {
            for (long i = 0; i < n * n; i++) a[i] = NAN;
            return;
        }
        const @T@ root = __builtin_sqrt@F@(left);
        a[j * n + j] = root;
        for (long i = j + 1; i < n; i++) {
            @T@ sum = a[i * n + j];
            for (long k = 0; k < j; k++) sum -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = sum / root;
        }
        for (long i = 0; i < j; i++) a[i * n + j] = 0;
    }
}

//@ halvings: abs
// how often A must be halved before its norm is at most 1/2
static int rc_halvings$(long n, const @T@ *a) {
    @T@ norm = 0;
    for (long i = 0; i < n; i++) {
        @T@ row = 0;
        for (long j = 0; j < n; j++) row += rc_abs$(a[i * n + j]);
        norm = row > norm || row != row ? row : norm;
    }
    return norm > (@T@)0.5 && norm < INFINITY ? (int)ceil(log2((double)norm / 0.5)) : 0;
}

//@ phi1: times halvings
// sum over k of A^k / (k + 1)!, by scaling and squaring: the Taylor series of A / 2^s with a norm of at most 1/2, then
// phi1(2A) = (I + exp(A)) phi1(A) / 2, s times. `work` holds A and room for three more matrices; returns the result.
static @T@ *rc_phi1$(long n, @T@ *work) {
    @T@ *small = work, *phi = small + n * n, *power = phi + n * n, *next = power + n * n, *swap;
    const int squarings = rc_halvings$(n, small);
    const @T@ scale = (@T@)ldexp(1, -squarings);
    for (long i = 0; i < n * n; i++) {
        small[i] *= scale;
        phi[i] = (i % (n + 1) == 0) + small[i] / 14;
    }
    for (int k = 13; k > 1; k--) {
        rc_times$(n, small, phi, next);
        for (long i = 0; i < n * n; i++) phi[i] = (i % (n + 1) == 0) + next[i] / k;
    }
    rc_times$(n, small, phi, power);
    for (long i = 0; i < n; i++) power[i * (n + 1)] += 1;
    for (int k = 0; k < squarings; k++) {
        for (long i = 0; i < n; i++) power[i * (n + 1)] += 1;
        rc_times$(n, power, phi, next);
        for (long i = 0; i < n * n; i++) phi[i] = next[i] / 2;
        for (long i = 0; i < n; i++) power[i * (n + 1)] -= 1;
        rc_times$(n, power, power, next);
        swap = power, power = next, next = swap;
    }
    return phi;
}

//@ dphi1: times halvings
// the derivative of phi1 at A along E: the steps of phi1 beside their derivatives. `work` holds A, E and room for six
// more matrices; returns the result.
static @T@ *rc_dphi1$(long n, @T@ *work) {
    const long size = n * n;
    @T@ *small = work, *along = small + size, *phi = along + size, *dphi = phi + size, *power = dphi + size;
    @T@ *dpower = power + size, *next = dpower + size, *dnext = next + size, *swap;
    const int squarings = rc_halvings$(n, small);
    const @T@ scale = (@T@)ldexp(1, -squarings);
    for (long i = 0; i < size; i++) {
        small[i] *= scale, along[i] *= scale;
        phi[i] = (i % (n + 1) == 0) + small[i] / 14, dphi[i] = along[i] / 14;
    }
    for (int k = 13; k > 1; k--) {
        rc_times$(n, small, phi, next);
        rc_times$(n, along, phi, dnext);
        rc_plus_times$(n, small, dphi, dnext);
        for (long i = 0; i < size; i++) phi[i] = (i % (n + 1) == 0) + next[i] / k, dphi[i] = dnext[i] / k;
    }
    rc_times$(n, small, phi, power);
    rc_times$(n, along, phi, dpower);
    rc_plus_times$(n, small, dphi, dpower);
    for (long i = 0; i < n; i++) power[i * (n + 1)] += 1;
    for (int k = 0; k < squarings; k++) {
        for (long i = 0; i < n; i++) power[i * (n + 1)] += 1;
        rc_times$(n, power, phi, next);
        rc_times$(n, dpower, phi, dnext);
        rc_plus_times$(n, power, dphi, dnext);
        for (long i = 0; i < size; i++) phi[i] = next[i] / 2, dphi[i] = dnext[i] / 2;
        for (long i = 0; i < n; i++) power[i * (n + 1)] -= 1;
        rc_times$(n, power, power, next);
        rc_times$(n, dpower, power, dnext);
        rc_plus_times$(n, power, dpower, dnext);
        swap = power, power = next, next = swap;
        swap = dpower, dpower = dnext, dnext = swap;
    }
    return dphi;
}
