// Arithmetic and memory helpers of generated kernels. Self-contained: no CUDA header is needed, so the same text
// compiles with NVRTC, with nvcc and, through a small shim, with a C++ compiler on a machine without a GPU.
typedef long long i64;
typedef unsigned long long u64;

#ifndef RC_DYNAMIC_SHARED  // the CPU shim brings its own
#define RC_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define RC_SPIN_WAIT() __nanosleep(20)
#endif
#define RC_INLINE inline __device__
#define RC_INF rc_bits_to_float(0x7f800000u)
#define RC_NAN rc_bits_to_float(0x7fc00000u)

// --- storage: half precisions are kept as their bits and computed in f32 -------------------------------------------

struct rc_f16 { unsigned short bits; };
struct rc_bf16 { unsigned short bits; };

RC_INLINE float rc_bits_to_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
RC_INLINE unsigned rc_float_to_bits(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }

RC_INLINE float rc_load(const rc_f16* p) {
#ifdef __CUDA_ARCH__
    float x;
    asm("{ .reg .f16 h; mov.b16 h, %1; cvt.f32.f16 %0, h; }" : "=f"(x) : "h"(p->bits));
    return x;
#else
    const unsigned sign = (p->bits & 0x8000u) << 16, exponent = (p->bits >> 10) & 31u, fraction = p->bits & 1023u;
    if (exponent == 31u) return rc_bits_to_float(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0u) return (sign ? -1.0f : 1.0f) * float(fraction) * 5.9604644775390625e-8f;
    return rc_bits_to_float(sign | ((exponent + 112u) << 23) | (fraction << 13));
#endif
}

RC_INLINE rc_f16 rc_to_f16(float x) {  // to nearest even
    rc_f16 h;
#ifdef __CUDA_ARCH__
    asm("{ .reg .f16 h; cvt.rn.f16.f32 h, %1; mov.b16 %0, h; }" : "=h"(h.bits) : "f"(x));
#else
    const unsigned bits = rc_float_to_bits(x), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) h.bits = (unsigned short)(sign | 0x7e00u);
    else if (size >= 0x477ff000u) h.bits = (unsigned short)(sign | 0x7c00u);
    else if (size >= 0x38800000u) {
        h.bits = (unsigned short)(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
    } else {  // subnormal: let the float adder round at the right place
        h.bits = (unsigned short)(sign | (rc_float_to_bits(rc_bits_to_float(size) + 0.5f) - 0x3f000000u));
    }
#endif
    return h;
}

RC_INLINE float rc_load(const rc_bf16* p) { return rc_bits_to_float(unsigned(p->bits) << 16); }

RC_INLINE rc_bf16 rc_to_bf16(float x) {  // to nearest even
    const unsigned bits = rc_float_to_bits(x);
    rc_bf16 h;
    h.bits = (unsigned short)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    return h;
}

RC_INLINE float rc_load(const float* p) { return *p; }
RC_INLINE double rc_load(const double* p) { return *p; }
RC_INLINE int rc_load(const int* p) { return *p; }
RC_INLINE i64 rc_load(const i64* p) { return *p; }
RC_INLINE bool rc_load(const unsigned char* p) { return *p != 0; }

RC_INLINE void rc_store(rc_f16* p, float x) { *p = rc_to_f16(x); }
RC_INLINE void rc_store(rc_bf16* p, float x) { *p = rc_to_bf16(x); }
RC_INLINE void rc_store(float* p, float x) { *p = x; }
RC_INLINE void rc_store(double* p, double x) { *p = x; }
RC_INLINE void rc_store(int* p, int x) { *p = x; }
RC_INLINE void rc_store(i64* p, i64 x) { *p = x; }
RC_INLINE void rc_store(unsigned char* p, bool x) { *p = x ? 1 : 0; }

RC_INLINE float rc_round_f16(float x) { const rc_f16 h = rc_to_f16(x); return rc_load(&h); }
RC_INLINE float rc_round_bf16(float x) { const rc_bf16 h = rc_to_bf16(x); return rc_load(&h); }

// --- elementwise operators, one overload per arithmetic type --------------------------------------------------------
// `max` and `min` give the first operand on a tie and pass NaN on, as the reference does.

template <class T> RC_INLINE T rc_max(T a, T b) { return (a >= b || a != a) ? a : b; }
template <class T> RC_INLINE T rc_min(T a, T b) { return (a <= b || a != a) ? a : b; }
template <class T> RC_INLINE T rc_select(bool c, T a, T b) { return c ? a : b; }
template <class T> RC_INLINE T rc_abs(T a) { return a < T(0) ? -a : (a == T(0) ? T(0) : a); }
template <class T> RC_INLINE T rc_sign(T a) { return a > T(0) ? T(1) : (a < T(0) ? T(-1) : a); }
RC_INLINE bool rc_not(bool a) { return !a; }

RC_INLINE float rc_exp(float x) { return expf(x); }
RC_INLINE double rc_exp(double x) { return exp(x); }
RC_INLINE float rc_expm1(float x) { return expm1f(x); }
RC_INLINE double rc_expm1(double x) { return expm1(x); }
RC_INLINE float rc_log(float x) { return logf(x); }
RC_INLINE double rc_log(double x) { return log(x); }
RC_INLINE float rc_log1p(float x) { return log1pf(x); }
RC_INLINE double rc_log1p(double x) { return log1p(x); }
RC_INLINE float rc_sqrt(float x) { return sqrtf(x); }
RC_INLINE double rc_sqrt(double x) { return sqrt(x); }
RC_INLINE float rc_sin(float x) { return sinf(x); }
RC_INLINE double rc_sin(double x) { return sin(x); }
RC_INLINE float rc_cos(float x) { return cosf(x); }
RC_INLINE double rc_cos(double x) { return cos(x); }
RC_INLINE float rc_atan2(float y, float x) { return atan2f(y, x); }
RC_INLINE double rc_atan2(double y, double x) { return atan2(y, x); }
RC_INLINE float rc_erf(float x) { return erff(x); }
RC_INLINE double rc_erf(double x) { return erf(x); }
RC_INLINE float rc_pow(float x, float y) { return powf(x, y); }
RC_INLINE double rc_pow(double x, double y) { return pow(x, y); }
RC_INLINE float rc_tanh(float x) { return tanhf(x); }  // exact at both ends, never NaN for a number
RC_INLINE double rc_tanh(double x) { return tanh(x); }
RC_INLINE float rc_floor(float x) { return floorf(x); }
RC_INLINE double rc_floor(double x) { return floor(x); }
RC_INLINE int rc_floor(int x) { return x; }
RC_INLINE i64 rc_floor(i64 x) { return x; }
RC_INLINE float rc_round(float x) { return rintf(x); }  // halves to even, as NumPy
RC_INLINE double rc_round(double x) { return rint(x); }
RC_INLINE int rc_round(int x) { return x; }
RC_INLINE i64 rc_round(i64 x) { return x; }

template <class T> RC_INLINE T rc_rsqrt(T x) { return T(1) / rc_sqrt(x); }
// exp(-x) overflows to inf for very negative x, and 1 / inf is the 0 wanted.
template <class T> RC_INLINE T rc_sigmoid(T x) { return T(1) / (T(1) + rc_exp(-x)); }
template <class T> RC_INLINE T rc_softplus(T x) { return rc_max(x, T(0)) + rc_log1p(rc_exp(-rc_abs(x))); }
template <class T> RC_INLINE T rc_logaddexp(T a, T b) {
    const T top = rc_max(a, b), gap = rc_abs(a - b);
    return a == b ? a + T(0.69314718055994530942) : top + rc_log1p(rc_exp(-gap));
}

// Quotients round down and remainders take the divisor's sign, as in Python; an integer divisor 0 gives 0, as in NumPy.
RC_INLINE float rc_floordiv(float a, float b) { return floorf(a / b); }
RC_INLINE double rc_floordiv(double a, double b) { return floor(a / b); }
RC_INLINE float rc_mod(float a, float b) { const float r = fmodf(a, b); return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
RC_INLINE double rc_mod(double a, double b) { const double r = fmod(a, b); return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
template <class T> RC_INLINE T rc_whole_floordiv(T a, T b) {
    if (b == 0) return 0;
    if (b == -1) return T(u64(0) - u64(a));
    return a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
}
template <class T> RC_INLINE T rc_whole_mod(T a, T b) {
    if (b == 0 || b == -1) return 0;
    const T r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
// Integers wrap around, as in NumPy; signed ones may not overflow in C++, unsigned ones do.
RC_INLINE int rc_wrapped_add(int a, int b) { return int(unsigned(a) + unsigned(b)); }
RC_INLINE i64 rc_wrapped_add(i64 a, i64 b) { return i64(u64(a) + u64(b)); }
RC_INLINE int rc_wrapped_sub(int a, int b) { return int(unsigned(a) - unsigned(b)); }
RC_INLINE i64 rc_wrapped_sub(i64 a, i64 b) { return i64(u64(a) - u64(b)); }
RC_INLINE int rc_wrapped_mul(int a, int b) { return int(unsigned(a) * unsigned(b)); }
RC_INLINE i64 rc_wrapped_mul(i64 a, i64 b) { return i64(u64(a) * u64(b)); }
template <class T> RC_INLINE T rc_wrapped_neg(T a) { return rc_wrapped_sub(T(0), a); }
RC_INLINE int rc_floordiv(int a, int b) { return rc_whole_floordiv(a, b); }
RC_INLINE i64 rc_floordiv(i64 a, i64 b) { return rc_whole_floordiv(a, b); }
RC_INLINE int rc_mod(int a, int b) { return rc_whole_mod(a, b); }
RC_INLINE i64 rc_mod(i64 a, i64 b) { return rc_whole_mod(a, b); }

// --- places along an axis ------------------------------------------------------------------------------------------

// The place asked for, or the nearest one there is.
template <class I> RC_INLINE int rc_place(I place, int size) {
    return place < I(0) ? 0 : (place >= I(size) ? size - 1 : int(place));
}
RC_INLINE int rc_wrapped_place(int place, int size) {
    const int rest = place % size;
    return rest < 0 ? rest + size : rest;
}
