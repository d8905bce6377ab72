// Vectors of one machine register, through the compiler's vector types: the same code is AVX-512,
// AVX2 or whatever the target has, for float and double.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace structured_dropout {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
#else
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 16;
#endif

template <typename T>
struct Simd {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Int IntVector __attribute__((vector_size(kVectorBytes)));

  static constexpr int kLanes = kVectorBytes / sizeof(T);

  static Vector load(const T* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }

  static Vector broadcast(T x) { return x - Vector{}; }

  static void store(T* p, Vector v) { std::memcpy(p, &v, sizeof v); }

  // The first n lanes; the others are zero, or stay as they are in memory.
  static Vector load(const T* p, int64_t n) {
    if (n == kLanes) return load(p);
    Vector v{};
    std::memcpy(&v, p, n * sizeof(T));
    return v;
  }

  static void store(T* p, Vector v, int64_t n) { std::memcpy(p, &v, n * sizeof(T)); }

  // Lane i is the sum of the lanes of m[i], which is lost: a transpose that adds the rows on its
  // way.
  static Vector sums(Vector (&m)[kLanes]) {
    add_rounds<1>(m);
    return m[0];
  }

  static Vector exp(Vector x) {  // at least the smallest normal number
    const Exp e = exp_parts(clamp(x, kExpLimit));
    return e.power + e.power * e.fraction;
  }

  static Vector sigmoid(Vector x) {
    const Exp e = exp_parts(clamp(-x, kExpLimit));
    return T(1) / (T(1) + e.power + e.power * e.fraction);
  }

  // tanh x = (e^2x - 1) / (e^2x + 1). Near 0 the power is 1, and e^2x - 1 is the fraction: nothing
  // cancels.
  static Vector tanh(Vector x) {
    constexpr T limit = sizeof(T) == 4 ? 10 : 20;  // beyond it tanh rounds to 1
    const Exp e = exp_parts(T(2) * clamp(x, limit));
    const Vector expm1 = e.power * e.fraction + (e.power - T(1));
    return expm1 / (expm1 + T(2));
  }

  // In place: row i of m becomes column i. Round by round it swaps the off-diagonal quarters of 2,
  // 4, 8, ... rows.
  static void transpose(Vector (&m)[kLanes]) { transpose_rounds<1>(m); }

 private:
  // e^x = power * (1 + fraction), with power = 2^n and |fraction| < 0.42.
  struct Exp {
    Vector power, fraction;
  };

  static Vector clamp(Vector x, T limit) {  // NaN stays NaN
    x = x < -limit ? broadcast(-limit) : x;
    return x > limit ? broadcast(limit) : x;
  }

  static constexpr T kExpLimit = sizeof(T) == 4 ? 87 : 708;  // e^limit is still finite

  static Exp exp_parts(Vector x) {
    constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
    constexpr T round =
        T(3) * (Int(1) << (mantissa - 1));  // adding it leaves round(x) in the lowest bits
    constexpr T log2e = 1.44269504088896340736;
    constexpr T ln2_high =
        sizeof(T) == 4 ? 0.693359375 : 6.93145751953125e-1;  // few digits: n * ln2_high is exact
    constexpr T ln2_low = sizeof(T) == 4 ? -2.12194440054690583e-4 : 1.42860682030941723212e-6;
    constexpr T one = 1;

    const Vector shifted = x * log2e + round;
    const Vector n = shifted - round;
    const Vector r = (x - n * ln2_high) - n * ln2_low;  // |r| <= ln(2) / 2
    Int one_bits;
    std::memcpy(&one_bits, &one, sizeof one);
    const IntVector power = ((IntVector)shifted << mantissa) + one_bits;
    return {(Vector)power, r * taylor<1, sizeof(T) == 4 ? 7 : 13>(r)};
  }

  // The series of (e^r - 1) / r from its term K / K on: 1 + r/(K+1) (1 + r/(K+2) (...)).
  template <int K, int Last>
  static Vector taylor(Vector r) {
    if constexpr (K == Last) {
      return broadcast(factorial_inverse(K));
    } else {
      return taylor<K + 1, Last>(r) * r + factorial_inverse(K);
    }
  }

  static constexpr T factorial_inverse(int k) {
    double f = 1;
    for (int i = 2; i <= k; ++i) f *= i;
    return T(1 / f);
  }

  using Lanes = std::make_integer_sequence<int, kLanes>;

  template <int Block>
  static void transpose_rounds(Vector (&m)[kLanes]) {
    if constexpr (Block < kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (!(i & Block)) swap_blocks<Block>(m[i], m[i + Block], Lanes{});
      }
      transpose_rounds<2 * Block>(m);
    }
  }

  template <int Block>
  static void add_rounds(Vector (&m)[kLanes]) {
    if constexpr (Block < kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i += 2 * Block) {
        swap_blocks<Block>(m[i], m[i + Block], Lanes{});
        m[i] += m[i + Block];
      }
      add_rounds<2 * Block>(m);
    }
  }

  // Seen as 2 x 2 blocks of this many lanes, transposes the rows a and b.
  template <int Block, int... Lane>
  static void swap_blocks(Vector& a, Vector& b, std::integer_sequence<int, Lane...>) {
    const Vector top =
        __builtin_shufflevector(a, b, (Lane & Block ? kLanes + Lane - Block : Lane)...);
    b = __builtin_shufflevector(a, b, (Lane & Block ? kLanes + Lane : Lane + Block)...);
    a = top;
  }
};

// Keeps a value that many products share in its register; the compiler would rather load it again
// for each.
template <typename Vector>
void pin([[maybe_unused]] Vector& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
}

template <typename T>
constexpr int64_t kLine = 64 / sizeof(T);  // values in a line of the cache

// Values that will be used soon, into the L2 cache.
template <int64_t Count, typename T>
void prefetch(const T* values) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < Count; i += kLine<T>) __builtin_prefetch(values + i, 0, 2);
}

// Values that will be written next, into the L1 cache.
template <int64_t Count, typename T>
void prefetch_to_write(const T* values) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < Count; i += kLine<T>) __builtin_prefetch(values + i, 1, 3);
}

}  // namespace structured_dropout
