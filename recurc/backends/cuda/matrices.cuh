// Small dense matrices, row-major, N x N. A team of threads works on each: a whole block on one in shared memory, or a
// thread alone on one in its registers (small ones: then every index is a constant). What has no result is NaN.

struct rc_alone {
    static RC_INLINE int first() { return 0; }
    static RC_INLINE int step() { return 1; }
    static RC_INLINE void meet() {}
};
struct rc_block {
    static RC_INLINE int first() { return threadIdx.x; }
    static RC_INLINE int step() { return blockDim.x; }
    static RC_INLINE void meet() { __syncthreads(); }
};

// Brings the row with the largest element of column k, of those from row k on, to row k.
template <int N, int M, class T> RC_INLINE void rc_pivot(rc_alone, T* a, T* b, int k) {
#pragma unroll (N <= 4 ? N : 1)
    for (int r = 0; r < N; ++r) {
        const bool larger = r > k && rc_abs(a[r * N + k]) > rc_abs(a[k * N + k]);
#pragma unroll (N <= 4 ? N : 1)
        for (int c = 0; c < N; ++c) {
            const T upper = a[k * N + c], lower = a[r * N + c];
            a[k * N + c] = larger ? lower : upper;
            a[r * N + c] = larger ? upper : lower;
        }
#pragma unroll (N <= 4 ? M : 1)
        for (int c = 0; c < M; ++c) {
            const T upper = b[k * M + c], lower = b[r * M + c];
            b[k * M + c] = larger ? lower : upper;
            b[r * M + c] = larger ? upper : lower;
        }
    }
}

template <int N, int M, class T> RC_INLINE void rc_pivot(rc_block, T* a, T* b, int k) {
    int best = k;
    for (int r = k + 1; r < N; ++r) if (rc_abs(a[r * N + k]) > rc_abs(a[best * N + k])) best = r;
    __syncthreads();
    if (best != k) {
        for (int c = threadIdx.x; c < N + M; c += blockDim.x) {
            T* const upper = c < N ? a + k * N + c : b + k * M + c - N;
            T* const lower = c < N ? a + best * N + c : b + best * M + c - N;
            const T kept = *upper;
            *upper = *lower;
            *lower = kept;
        }
    }
    __syncthreads();
}

// X with a X = b, in the place of b (N x M): elimination with partial pivoting, then back substitution.
template <class Team, int N, int M, class T> RC_INLINE void rc_solve(T* a, T* b) {
    bool singular = false;
#pragma unroll (N <= 4 ? N : 1)
    for (int k = 0; k < N; ++k) {
        rc_pivot<N, M>(Team(), a, b, k);
        const T pivot = a[k * N + k];
        singular = singular || pivot == T(0);
#pragma unroll (N <= 4 ? N * (N + M) : 1)
        for (int e = Team::first(); e < N * (N + M); e += Team::step()) {
            const int r = e / (N + M), c = e % (N + M);
            if (r <= k || c <= k) continue;
            const T factor = a[r * N + k] / pivot;
            if (c < N) a[r * N + c] -= factor * a[k * N + c];
            else b[r * M + c - N] -= factor * b[k * M + c - N];
        }
        Team::meet();
    }
#pragma unroll (N <= 4 ? N : 1)
    for (int k = N - 1; k >= 0; --k) {
#pragma unroll (N <= 4 ? M : 1)
        for (int c = Team::first(); c < M; c += Team::step()) b[k * M + c] /= a[k * N + k];
        Team::meet();
#pragma unroll (N <= 4 ? N * M : 1)
        for (int e = Team::first(); e < N * M; e += Team::step()) {
            const int r = e / M, c = e % M;
            if (r < k) b[e] -= a[r * N + k] * b[k * M + c];
        }
        Team::meet();
    }
#pragma unroll (N <= 4 ? N * M : 1)
    for (int e = Team::first(); e < N * M; e += Team::step()) if (singular) b[e] = T(RC_NAN);
    Team::meet();
}

template <class Team, int N, class T> RC_INLINE void rc_inv(T* a, T* inverse) {
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) inverse[e] = T(e / N == e % N ? 1 : 0);
    Team::meet();
    rc_solve<Team, N, N>(a, inverse);
}

// The lower triangular factor of a symmetric positive definite matrix, in its place; the upper triangle is not read.
template <class Team, int N, class T> RC_INLINE void rc_cholesky(T* a) {
    bool definite = true;
#pragma unroll (N <= 4 ? N : 1)
    for (int k = 0; k < N; ++k) {
        const T root = rc_sqrt(a[k * N + k]);
        definite = definite && a[k * N + k] > T(0);
        Team::meet();
#pragma unroll (N <= 4 ? N : 1)
        for (int r = Team::first(); r < N; r += Team::step()) {
            if (r >= k) a[r * N + k] = r == k ? root : a[r * N + k] / root;
        }
        Team::meet();
#pragma unroll (N <= 4 ? N * N : 1)
        for (int e = Team::first(); e < N * N; e += Team::step()) {
            const int r = e / N, c = e % N;
            if (c > k && r >= c) a[e] -= a[r * N + k] * a[c * N + k];
        }
        Team::meet();
    }
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) {
        if (e % N > e / N) a[e] = T(0);
        if (!definite) a[e] = T(RC_NAN);
    }
    Team::meet();
}

// x := unit * I + scale * (a + shift * I) x, by way of `next`.
template <class Team, int N, class T> RC_INLINE void rc_renew(const T* a, T shift, T* x, T* next, T unit, T scale) {
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) {
        const int r = e / N, c = e % N;
        T total = shift * x[e];
#pragma unroll (N <= 4 ? N : 1)
        for (int k = 0; k < N; ++k) total += a[r * N + k] * x[k * N + c];
        next[e] = (r == c ? unit : T(0)) + scale * total;
    }
    Team::meet();
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) x[e] = next[e];
    Team::meet();
}

// out := scale * (da x + (a + shift * I) y), by way of `next`: the derivative of scale * (a + shift * I) x.
template <class Team, int N, class T>
RC_INLINE void rc_along(const T* a, const T* da, T shift, const T* x, const T* y, T* out, T* next, T scale) {
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) {
        const int r = e / N, c = e % N;
        T total = shift * y[e];
#pragma unroll (N <= 4 ? N : 1)
        for (int k = 0; k < N; ++k) total += da[r * N + k] * x[k * N + c] + a[r * N + k] * y[k * N + c];
        next[e] = scale * total;
    }
    Team::meet();
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) out[e] = next[e];
    Team::meet();
}

// a := unit * I + a x, by way of `next`.
template <class Team, int N, class T> RC_INLINE void rc_times(T* a, const T* x, T* next, T unit) {
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) {
        T total = e / N == e % N ? unit : T(0);
#pragma unroll (N <= 4 ? N : 1)
        for (int k = 0; k < N; ++k) total += a[e / N * N + k] * x[k * N + e % N];
        next[e] = total;
    }
    Team::meet();
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) a[e] = next[e];
    Team::meet();
}

// How often a must be halved before its norm is at most 1/2, and by what it is multiplied then.
template <int N, class T> RC_INLINE int rc_halvings(const T* a, T& scale) {
    T norm = T(0);
#pragma unroll (N <= 4 ? N : 1)
    for (int r = 0; r < N; ++r) {
        T row = T(0);
#pragma unroll (N <= 4 ? N : 1)
        for (int c = 0; c < N; ++c) row += rc_abs(a[r * N + c]);
        norm = rc_max(norm, row);
    }
    int halvings = 0;
    scale = T(1);
    for (T rest = norm; rest > T(0.5) && rest < T(RC_INF); rest *= T(0.5)) { scale *= T(0.5); ++halvings; }
    return halvings;
}

// phi = sum over k of a^k / (k+1)!: the series of a / 2^s, whose norm is at most 1/2, then s times
// phi1(2 a) = (I + exp a) phi1(a) / 2 (Higham, Functions of Matrices, chapter 10). `a` becomes exp(a) on the way.
template <class Team, int N, class T> RC_INLINE void rc_phi1(T* a, T* phi, T* next) {
    T scale;
    const int squarings = rc_halvings<N>(a, scale);
    Team::meet();
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) {
        a[e] *= scale;
        phi[e] = T(e / N == e % N ? 1 : 0) + a[e] / T(14);
    }
    Team::meet();
#pragma unroll 1
    for (int k = 13; k >= 2; --k) rc_renew<Team, N>(a, T(0), phi, next, T(1), T(1) / T(k));
    rc_times<Team, N>(a, phi, next, T(1));  // exp(a) = I + a phi
#pragma unroll 1
    for (int s = 0; s < squarings; ++s) {
        rc_renew<Team, N>(a, T(1), phi, next, T(0), T(0.5));
        rc_times<Team, N>(a, a, next, T(0));
    }
}

// dphi = the derivative of phi1 at a along da: the steps of `rc_phi1` beside their derivatives.
template <class Team, int N, class T> RC_INLINE void rc_dphi1(T* a, T* da, T* phi, T* dphi, T* next) {
    T scale;
    const int squarings = rc_halvings<N>(a, scale);
    Team::meet();
#pragma unroll (N <= 4 ? N * N : 1)
    for (int e = Team::first(); e < N * N; e += Team::step()) {
        a[e] *= scale;
        da[e] *= scale;
        phi[e] = T(e / N == e % N ? 1 : 0) + a[e] / T(14);
        dphi[e] = da[e] / T(14);
    }
    Team::meet();
#pragma unroll 1
    for (int k = 13; k >= 2; --k) {
        rc_along<Team, N>(a, da, T(0), phi, dphi, dphi, next, T(1) / T(k));
        rc_renew<Team, N>(a, T(0), phi, next, T(1), T(1) / T(k));
    }
    rc_along<Team, N>(a, da, T(0), phi, dphi, da, next, T(1));
    rc_times<Team, N>(a, phi, next, T(1));
#pragma unroll 1
    for (int s = 0; s < squarings; ++s) {
        rc_along<Team, N>(a, da, T(1), phi, dphi, dphi, next, T(0.5));
        rc_renew<Team, N>(a, T(1), phi, next, T(0), T(0.5));
        rc_along<Team, N>(a, da, T(0), a, da, da, next, T(1));
        rc_times<Team, N>(a, a, next, T(0));
    }
}
