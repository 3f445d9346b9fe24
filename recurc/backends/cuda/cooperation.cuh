// How threads work together: sums over a warp, shuffles of whole structs, a barrier across the grid.

template <class T> RC_INLINE T rc_warp_sum(T x) {  // every lane gets the sum
#pragma unroll
    for (int offset = 16; offset >= 1; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// Sums of N values over a warp at once, N a power of two up to 32: lane l gets the sum of value l / (32 / N). Each round
// halves the values a lane keeps, so it takes N - 1 + log2(32 / N) shuffles instead of 5 N.
template <int N, class T> RC_INLINE T rc_warp_sum_split(T (&x)[N]) {
    const int lane = threadIdx.x & 31;
    int offset = 16;
#pragma unroll
    for (int width = N / 2; width >= 1; width /= 2) {
        const bool upper = lane & offset;
#pragma unroll
        for (int i = 0; i < width; ++i) {
            const T kept = upper ? x[i + width] : x[i], sent = upper ? x[i] : x[i + width];
            x[i] = kept + __shfl_xor_sync(0xffffffffu, sent, offset);
        }
        offset /= 2;
    }
    for (; offset >= 1; offset /= 2) x[0] += __shfl_xor_sync(0xffffffffu, x[0], offset);
    return x[0];
}

template <class Element> RC_INLINE Element rc_shuffle_up(const Element& e, int distance) {
    Element other;
    constexpr int words = sizeof(Element) / 4;
    unsigned mine[words], theirs[words];
    memcpy(mine, &e, sizeof(Element));
#pragma unroll
    for (int i = 0; i < words; ++i) theirs[i] = __shfl_up_sync(0xffffffffu, mine[i], distance);
    memcpy(&other, theirs, sizeof(Element));
    return other;
}

// N neighbours moved at once.
template <class T, int N> struct __align__(sizeof(T) * N) rc_pack { T value[N]; };

RC_INLINE u64 rc_load_acquire(const u64* p) {
    u64 x;
#ifdef __CUDA_ARCH__
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(x) : "l"(p) : "memory");
#else
    x = *(const volatile u64*)p;
#endif
    return x;
}

RC_INLINE void rc_store_release(u64* p, u64 x) {
#ifdef __CUDA_ARCH__
    asm volatile("st.release.gpu.global.u64 [%0], %1;" :: "l"(p), "l"(x) : "memory");
#else
    *(volatile u64*)p = x;
#endif
}

// What another block wrote during this launch is read past the first-level cache, which is not coherent.
template <class T> RC_INLINE T rc_load_from_grid(const T* p) {
#ifdef __CUDA_ARCH__
    return __ldcg(p);
#else
    return *p;
#endif
}

RC_INLINE bool rc_load_from_grid(const bool* p) {
    return rc_load_from_grid(reinterpret_cast<const unsigned char*>(p)) != 0;
}

// All `blocks` blocks that share the counter meet here. The counter only grows, so no reset can race with a late block;
// every block must be resident, which a cooperative launch guarantees.
RC_INLINE void rc_grid_barrier(u64* arrived, u64 target) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, u64(1));
        while (rc_load_acquire(arrived) < target) RC_SPIN_WAIT();
        __threadfence();
    }
    __syncthreads();
}
