"""What the operators tell CUDA's driver, by one that writes down what it is told."""

import os
import subprocess
import sys

import pytest

DRIVER = """
#include <cstdio>
#include <cstdlib>
namespace {
thread_local void* context = nullptr;
int told(const char* how, void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
         unsigned by, unsigned bz, unsigned shared, void* stream, void** parameters) {
  std::printf("%s %zu grid %u %u %u block %u %u %u shared %u stream %zu:", how, (size_t)function,
              gx, gy, gz, bx, by, bz, shared, (size_t)stream);
  std::printf(" x %zu scale %g n %d rows %zu\\n", *(size_t*)parameters[0], *(float*)parameters[1],
              *(int*)parameters[2], *(size_t*)parameters[3]);
  std::fflush(stdout);
  return std::getenv("FAILS") ? 700 : 0;
}
}  // namespace
extern "C" {
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** parameters, void** extra) {
  if (!context || extra) std::abort();
  return told("launch", f, gx, gy, gz, bx, by, bz, shared, stream, parameters);
}
int cuLaunchCooperativeKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                              unsigned by, unsigned bz, unsigned shared, void* stream,
                              void** parameters) {
  if (!context) std::abort();
  return told("cooperative", f, gx, gy, gz, bx, by, bz, shared, stream, parameters);
}
int cuCtxGetCurrent(void** to) { *to = context; return 0; }
int cuCtxSetCurrent(void* to) { context = to; return 0; }
int cuDeviceGet(int* device, int index) { *device = index + 100; return 0; }
int cuDevicePrimaryCtxRetain(void** to, int device) {
  std::printf("context of device %d\\n", device);
  *to = &context;
  return 0;
}
int cuGetErrorString(int error, const char** text) { *text = "an illegal address"; return 0; }
}
"""

PROGRAM = """
import threading, torch
from structured_dropout.backends.cuda import build
ops = build.load()
x, rows, queue = torch.ones(3), torch.tensor([0, 3]), (0, 42)

def launch(cooperative):
    kernel = ops.cuda_kernel(77, "f", cooperative, ["f x", "F scale", "I n", "l rows"])
    ops.cuda_launch(kernel, (2, 3, 4), (5, 6, 7), 70000, [x, rows], [0.5, -9], queue)

print(x.data_ptr(), rows.data_ptr(), flush=True)
launch(False)
launch(True)
thread = threading.Thread(target=launch, args=(False,))
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(DRIVER)
    library = str(folder / "libcuda.so.1")
    subprocess.run(
        ["c++", "-shared", "-fPIC", str(folder / "driver.cpp"), "-o", library], check=True
    )
    return folder


def run(**environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_launches(driver):
    """Each thread has a context before its first one."""
    ran = run(LD_LIBRARY_PATH=str(driver))
    addresses, *told = ran.stdout.splitlines()
    x, rows = addresses.split()
    launch = f"77 grid 2 3 4 block 5 6 7 shared 70000 stream 42: x {x} scale 0.5 n -9 rows {rows}"
    context = "context of device 99"  # the CPU is torch's device -1
    each_way = [f"launch {launch}", f"cooperative {launch}"]
    assert told == [context, *each_way, context, each_way[0]]
    assert ran.returncode == 0, ran.stderr


def test_a_launch_that_fails(driver):
    ran = run(LD_LIBRARY_PATH=str(driver), FAILS="1")
    assert "RuntimeError: kernel f: CUDA error 700: an illegal address" in ran.stderr


def test_without_a_driver(tmp_path):
    (tmp_path / "libcuda.so.1").write_text("")  # hides one that may be there
    assert "RuntimeError: there is no CUDA driver" in run(LD_LIBRARY_PATH=str(tmp_path)).stderr
