#include "tiles.h"

#if defined(STRUCTURED_DROPOUT_TILES)

#include <c10/util/Exception.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace structured_dropout {
namespace {

// Linux gives a process these registers, 8 KB a thread, when it asks for them.
void request_tiles() {
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, request, tile_data) == 0;
  TORCH_CHECK(granted,
              "the system refuses the processor's tile registers (AMX): build the kernels without "
              "them, with STRUCTURED_DROPOUT_CXXFLAGS=-mno-amx-bf16");
}

thread_local TileShapes shapes_now;
thread_local bool shaped = false;

}  // namespace

void shape_tiles(const TileShapes& shapes) {
  if (shaped && std::memcmp(&shapes_now, &shapes, sizeof shapes) == 0) return;
  request_tiles();
  _tile_loadconfig(&shapes);
  shapes_now = shapes;
  shaped = true;
}

void release_tiles() {
  if (!shaped) return;
  _tile_release();
  shaped = false;
}

}  // namespace structured_dropout

#endif
