// Runs CUDA C++ on the CPU, for tests. Every CUDA thread is a fiber; the fibers of a block (of all blocks, when the launch
// is cooperative) take turns in an order drawn from a seed, switching where a thread waits: at barriers, shuffles and
// spins. A missing barrier therefore shows as a wrong number for some order, a barrier that some threads never reach as a
// deadlock, and shared memory starts as NaN. What it does not see: memory ordering, launch limits, speed.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <utility>
#include <vector>

struct dim3 { unsigned x = 1, y = 1, z = 1; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define RC_DYNAMIC_SHARED(name) unsigned char* const name = shim::here->home->shared
#define RC_SPIN_WAIT() shim::wait()

namespace shim {

struct Meeting { unsigned arrived = 0, alive = 0; uint64_t generation = 0; };
struct Warp { Meeting meeting; uint64_t slots[32]; };
struct Block { Meeting meeting; std::vector<Warp> warps; unsigned char* shared; std::vector<uint64_t> storage; };
struct Fiber { ucontext_t context; jmp_buf place; bool started = false; std::unique_ptr<char[]> stack; dim3 thread, block; Block* home; Warp* warp; unsigned lane; bool done = false; };

constexpr size_t STACK = 64 * 1024;
static Fiber* here = nullptr;
static jmp_buf scheduler;
static uint64_t progress = 0;
static const std::function<void()>* work = nullptr;

// Fibers start on stacks made by ucontext and switch by jumps, which, unlike swapcontext, make no system call.
inline void wait() {
    if (_setjmp(here->place) == 0) _longjmp(scheduler, 1);
}

__attribute__((noinline)) inline void resume(Fiber& f) {
    here = &f;
    threadIdx = f.thread;
    blockIdx = f.block;
    if (_setjmp(scheduler) != 0) return;
    if (f.started) _longjmp(f.place, 1);
    f.started = true;
    setcontext(&f.context);
}

inline void release_if_full(Meeting& m) {
    if (m.arrived > 0 && m.arrived == m.alive) { m.arrived = 0; ++m.generation; }
}

inline void meet(Meeting& m) {
    const uint64_t generation = m.generation;
    ++m.arrived;
    ++progress;
    release_if_full(m);
    while (m.generation == generation) wait();
}

inline void run_fiber() {
    (*work)();
    here->done = true;
    ++progress;
    for (Meeting* m : {&here->home->meeting, &here->warp->meeting}) { --m->alive; release_if_full(*m); }
    wait();
}

struct Random {
    uint64_t state;
    unsigned below(unsigned n) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return unsigned((state >> 11) % n); }
};

// Runs the fibers until all are done. False on deadlock.
inline bool run(std::vector<std::unique_ptr<Fiber>>& fibers, Random& random) {
    std::vector<Fiber*> live;
    for (auto& f : fibers) live.push_back(f.get());
    uint64_t quiet_since = progress;
    int quiet = 0;
    while (!live.empty()) {
        for (unsigned i = unsigned(live.size()) - 1; i > 0; --i) std::swap(live[i], live[random.below(i + 1)]);
        for (Fiber* f : live) resume(*f);
        size_t kept = 0;
        for (Fiber* f : live) if (!f->done) live[kept++] = f;
        live.resize(kept);
        quiet = progress == quiet_since ? quiet + 1 : 0;
        quiet_since = progress;
        if (quiet > 2) return false;
    }
    return true;
}

inline bool launch(dim3 grid, unsigned threads, size_t shared, bool cooperative, uint64_t seed, const std::function<void()>& kernel) {
    Random random{seed * 2 + 1};
    gridDim = grid;
    blockDim = dim3{threads, 1, 1};
    work = &kernel;
    std::vector<dim3> blocks;
    for (unsigned y = 0; y < grid.y; ++y) for (unsigned x = 0; x < grid.x; ++x) blocks.push_back(dim3{x, y, 0});
    for (unsigned i = unsigned(blocks.size()) - 1; i > 0; --i) std::swap(blocks[i], blocks[random.below(i + 1)]);
    const size_t together = cooperative ? blocks.size() : 1;
    for (size_t first = 0; first < blocks.size(); first += together) {
        std::vector<std::unique_ptr<Block>> homes;
        std::vector<std::unique_ptr<Fiber>> fibers;
        for (size_t i = first; i < first + together; ++i) {
            homes.push_back(std::make_unique<Block>());
            Block& home = *homes.back();
            home.storage.assign(shared / 8 + 4, ~uint64_t(0));  // NaN, whatever type reads it
            home.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(home.storage.data()) + 15) & ~uintptr_t(15));
            home.warps.resize((threads + 31) / 32);
            home.meeting.alive = threads;
            for (unsigned t = 0; t < threads; ++t) {
                fibers.push_back(std::make_unique<Fiber>());
                Fiber& f = *fibers.back();
                f.thread = dim3{t, 0, 0};
                f.block = blocks[i];
                f.home = &home;
                f.warp = &home.warps[t / 32];
                f.lane = t % 32;
                ++f.warp->meeting.alive;
                f.stack.reset(new char[STACK]);
                getcontext(&f.context);
                f.context.uc_stack.ss_sp = f.stack.get();
                f.context.uc_stack.ss_size = STACK;
                f.context.uc_link = nullptr;
                makecontext(&f.context, run_fiber, 0);
            }
        }
        if (!run(fibers, random)) return false;
    }
    return true;
}

template <class T> T exchange(T value, int source) {
    static_assert(sizeof(T) <= 8);
    Warp& warp = *here->warp;
    memcpy(&warp.slots[here->lane], &value, sizeof(T));
    meet(warp.meeting);
    T result;
    memcpy(&result, &warp.slots[source], sizeof(T));
    meet(warp.meeting);
    return result;
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*reinterpret_cast<std::remove_const_t<A>*>(args[I])...);
}

template <class... A> int start(void (*kernel)(A...), void** args, unsigned x, unsigned y, unsigned threads, size_t shared, int cooperative, uint64_t seed) {
    const std::function<void()> body = [&] { call(kernel, args, std::index_sequence_for<A...>{}); };
    return launch(dim3{x, y, 1}, threads, shared, cooperative != 0, seed, body) ? 0 : 1;
}

}  // namespace shim

inline void __syncthreads() { shim::meet(shim::here->home->meeting); }
inline void __syncwarp(unsigned = ~0u) { shim::meet(shim::here->warp->meeting); }
inline void __threadfence() {}
template <class T> T __shfl_sync(unsigned, T v, int source) { return shim::exchange(v, source & 31); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return shim::exchange(v, int(shim::here->lane) ^ mask); }
template <class T> T __shfl_up_sync(unsigned, T v, int by) {
    const int lane = int(shim::here->lane);
    return shim::exchange(v, lane >= by ? lane - by : lane);
}
template <class T> T atomicAdd(T* p, T v) { const T old = *p; *p = old + v; ++shim::progress; return old; }
