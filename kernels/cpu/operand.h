// What the products multiply, apart from what they sum it in: float32 and float64 are summed as
// they are, bfloat16 in float32, two products to a lane.
//
// So a register of bfloat16 holds the columns of two sums, in the order that interleaving wants:
// four of the first, four of the second, and so on. Interleaved with those of another row
// (unpacklo, unpackhi) they are the pairs of the one sum and of the other.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "simd.h"
#include "tiles.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace structured_dropout {

using c10::BFloat16;

template <typename T>
struct Operand {
  using Sum = T;
  using Sums = typename Simd<T>::Vector;
  using Vector = Sums;

  static constexpr int kDepth = 1;                // products to a lane
  static constexpr int kLanes = Simd<T>::kLanes;  // values in a register

  static Vector load(const T* p) { return Simd<T>::load(p); }
  static void store(T* p, Vector v) { Simd<T>::store(p, v); }
  static Vector broadcast(const T* p) { return Simd<T>::broadcast(*p); }
  static void add_product(Sums& sum, Vector a, Vector b) { sum += a * b; }

  // The registers of kDepth rows, by sum.
  static void interleave(const Vector (&rows)[1], Vector* by_sum) { by_sum[0] = rows[0]; }

  // A register from the sums whose columns it holds; and back.
  static Vector narrow(const Sums* sums) { return sums[0]; }
  static void widen(Vector v, Sums* sums) { sums[0] = v; }

  // The first n values at p, in the order of a panel's register.
  static Vector load_columns(const T* p, int64_t n) { return Simd<T>::load(p, n); }

  // The first n values at p, to sum or to have been summed; in memory order, as all but panels are.
  static Sums load_values(const T* p, int64_t n) { return Simd<T>::load(p, n); }
  static void store_values(T* p, Sums v, int64_t n) { Simd<T>::store(p, v, n); }
};

template <>
struct Operand<BFloat16> {
  using Sum = float;
  using Sums = Simd<float>::Vector;
  typedef uint16_t Vector __attribute__((vector_size(kVectorBytes)));

  static constexpr int kDepth = 2;
  static constexpr int kLanes = kVectorBytes / sizeof(BFloat16);

  static Vector load(const BFloat16* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(BFloat16* p, Vector v) { std::memcpy(p, &v, sizeof v); }

  static Vector broadcast(const BFloat16* p) {  // a pair
    uint32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return (Vector)(pair - Bits{});
  }

  static void add_product(Sums& sum, Vector a, Vector b) {
#if defined(__AVX512BF16__)
    sum = (Sums)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    const auto first = [](Vector pairs) { return (Sums)((Bits)pairs << 16); };
    const auto second = [](Vector pairs) { return (Sums)((Bits)pairs & 0xffff0000u); };
    sum += second(a) * second(b);
    sum += first(a) * first(b);
#endif
  }

  static void interleave(const Vector (&rows)[2], Vector* by_sum) {
    by_sum[0] = interleave<0>(rows[0], rows[1], Lanes{});
    by_sum[1] = interleave<4>(rows[0], rows[1], Lanes{});
  }

  static Vector narrow(const Sums* sums) {
    return upper_halves((Vector)rounded(sums[0]), (Vector)rounded(sums[1]), Lanes{});
  }
  static void widen(Vector v, Sums* sums) {
    sums[0] = (Sums)interleave<0>(Vector{}, v, Lanes{});
    sums[1] = (Sums)interleave<4>(Vector{}, v, Lanes{});
  }

  static Vector load_columns(const BFloat16* p, int64_t n) {
    Vector v{};
    if (n == kLanes) {
      v = load(p);
    } else {
      std::memcpy(&v, p, n * sizeof(BFloat16));
    }
    return columns(v, Lanes{});
  }

  static Sums load_values(const BFloat16* p, int64_t n) {
    Half v{};
    if (n == kSums) {
      std::memcpy(&v, p, sizeof v);
    } else {
      std::memcpy(&v, p, n * sizeof(BFloat16));
    }
    return (Sums)(__builtin_convertvector(v, Bits) << 16);
  }
  static void store_values(BFloat16* p, Sums v, int64_t n) {
    const Half half = __builtin_convertvector(rounded(v) >> 16, Half);
    if (n == kSums) {
      std::memcpy(p, &half, sizeof half);
    } else {
      std::memcpy(p, &half, n * sizeof(BFloat16));
    }
  }

 private:
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  using Lanes = std::make_integer_sequence<int, kLanes>;
  static constexpr int kSums = Simd<float>::kLanes;

  // To the nearest bfloat16, ties to even: the upper half of each lane.
  static Bits rounded(Sums v) {
    const Bits bits = (Bits)v;
    const Bits nan = 0x7fc00000u - Bits{};
    return v == v ? bits + 0x7fffu + (bits >> 16 & 1u) : nan;
  }

  // Of each eight values of a and b, the four that begin at `From`, by turns.
  template <int From, int... Lane>
  static Vector interleave(Vector a, Vector b, std::integer_sequence<int, Lane...>) {
    return __builtin_shufflevector(a, b,
                                   (Lane % 2 * kLanes + Lane / 8 * 8 + From + Lane % 8 / 2)...);
  }

  // Of two neighbouring vectors of columns four values by turns.
  template <int... Lane>
  static Vector columns(Vector v, std::integer_sequence<int, Lane...>) {
    return __builtin_shufflevector(v, v, (Lane % 8 / 4 * kSums + Lane / 8 * 4 + Lane % 4)...);
  }

  // The upper halves of the lanes of a and b, four by four.
  template <int... Lane>
  static Vector upper_halves(Vector a, Vector b, std::integer_sequence<int, Lane...>) {
    return __builtin_shufflevector(a, b,
                                   (Lane % 8 / 4 * kLanes + Lane / 8 * 8 + Lane % 4 * 2 + 1)...);
  }
};

template <typename T>
using Sum = typename Operand<T>::Sum;

// Whether products of T are those of the tile registers.
template <typename T>
constexpr bool kInTiles = kTiles && std::is_same_v<T, BFloat16>;

}  // namespace structured_dropout
