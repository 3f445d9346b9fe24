#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#define RC_THREAD omp_get_thread_num()
#define RC_THREADS omp_get_num_threads()
#define RC_PRAGMA(text) _Pragma(#text)
#define RC_PARALLEL(threads) RC_PRAGMA(omp parallel num_threads(threads))
#define RC_BARRIER _Pragma("omp barrier")
#else  // one thread
#define RC_THREAD 0
#define RC_THREADS 1
#define RC_PARALLEL(threads)
#define RC_BARRIER
#endif

#define ALIGNED __attribute__((aligned(64)))
#if defined __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define ONE_BY_ONE _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define ONE_BY_ONE _Pragma("GCC unroll 1")
#endif
#define INLINE static inline __attribute__((always_inline, unused))

// Memory that is read soon, or only after what is read now.
#define PREFETCH_L1(address) __builtin_prefetch(address, 0, 3)
#define PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)

// One array: element (b, t) starts at data + b * batch + (t - origin) * time, in elements; inner dims are contiguous.
typedef struct { void *data; int64_t batch, time, origin; } rc_array;
#define ROW(array, type, b) ((type *)(array).data + (b) * (array).batch)
#define AT(array, type, b, t) (ROW(array, type, b) + ((t) - (array).origin) * (array).time)

// The share of `part` out of `parts` in 0..count, in whole multiples of `grain`.
INLINE void rc_split(long count, long grain, long part, long parts, long *from, long *to) {
    const long grains = (count + grain - 1) / grain, each = grains / parts, more = grains % parts;
    const long first = part * each + (part < more ? part : more), last = first + each + (part < more);
    *from = first * grain < count ? first * grain : count;
    *to = last * grain < count ? last * grain : count;
}

// The most even tile size of at most `most` rows.
INLINE long rc_even(long rows, long most) {
    const long tiles = (rows + most - 1) / most;
    return tiles ? (rows + tiles - 1) / tiles : 1;
}

// How many things of a size there is room for, at least one.
INLINE long rc_fitting(long room, long size) {
    return size > 0 && size < room ? room / size : 1;
}

// Room in the workspace; `base` is NULL when only the size is asked for.
INLINE char *rc_take(char *base, int64_t *used, int64_t bytes) {
    char *here = base ? base + *used : 0;
    *used += (bytes + 63) / 64 * 64;
    return here;
}

// Whether a result of so many elements is better written around the caches: it would push everything else out of them,
// and every vector of it lies on a cache line.
INLINE int rc_streams(const rc_array *array, long b, int64_t count, int64_t size) {
    const int64_t first = (int64_t)(intptr_t)array->data + b * array->batch * size, strides = array->time * size;
    return count * size > (8 << 20) && first % 64 == 0 && strides % 64 == 0;
}

// Written around the caches, and now seen by other threads.
INLINE void rc_streamed(void) {
#if defined __SSE2__
    __builtin_ia32_sfence();
#endif
}

// Threads that go through a step together wait for each other here, spinning: a step lasts microseconds.
typedef struct { int members, arrived, phase; } rc_team;

INLINE void rc_wait(rc_team *team) {
    const int phase = __atomic_load_n(&team->phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->members) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&team->phase, __ATOMIC_ACQUIRE) == phase; spins++) {
#if defined __x86_64__ || defined __i386__
        __builtin_ia32_pause();
#endif
        if (spins > 300) sched_yield();
    }
}
