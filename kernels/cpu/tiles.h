// The tile registers of AMX: eight matrices of up to 16 rows of 64 bytes, of which one instruction
// multiplies two and adds the product to a third.
//
// Compiled only where the compiler's target has them (kTiles); build.py asks for them where the
// processor does.
#pragma once

#include <cstdint>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define STRUCTURED_DROPOUT_TILES 1
#endif

namespace structured_dropout {

#if defined(STRUCTURED_DROPOUT_TILES)
constexpr bool kTiles = true;
#else
constexpr bool kTiles = false;
#endif

constexpr int kTileRows = 16;     // of a tile
constexpr int kTileDepth = 32;    // values of bfloat16 in a row
constexpr int kTileColumns = 16;  // values of float32 in a row, or pairs of bfloat16

#if defined(STRUCTURED_DROPOUT_TILES)

// Rows, and bytes of a row, of each tile register, in the layout that the processor reads.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  // A register without rows or values stays unused.
  template <typename T>
  void set(int tile, int64_t tile_rows, int64_t values) {
    if (tile_rows == 0 || values == 0) return;
    rows[tile] = tile_rows;
    bytes[tile] = values * sizeof(T);
  }
};

// Gives this thread's tile registers these shapes until release_tiles; free if they have them.
void shape_tiles(const TileShapes& shapes);

// Leaves the registers to whoever is next: torch's own products shape them, too.
void release_tiles();

// The compiler must not move what other code writes past a load, or reads past a store.
template <int Tile, typename T>
void tile_load(const T* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
               :
               : "r"(from), "r"(stride * int64_t(sizeof(T))), "i"(Tile)
               : "memory");
}

template <int Tile, typename T>
void tile_store(T* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
               :
               : "r"(to), "r"(stride * int64_t(sizeof(T))), "i"(Tile)
               : "memory");
}

template <int Tile>
void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}

// Sum += A B in float32, for A [rows][depth] of bfloat16 and B [depth / 2][columns] of pairs.
template <int Sum, int A, int B>
void tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(B));
}

#else

inline void release_tiles() {}

#endif

}  // namespace structured_dropout
