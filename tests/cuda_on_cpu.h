// The words of CUDA that kronecker.cu uses, for a CPU.
//
// The threads of a block are fibres. Each runs alone until it comes to a barrier, in the order of
// their numbers; so what a missing barrier would leave to chance is wrong in every run. Shared
// memory holds NaN before a block starts, and what lies behind it is watched.

#include <ucontext.h>

#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Place { int x; };
static Place threadIdx, blockIdx, blockDim, gridDim;

constexpr int MOST = 1 << 18, WATCHED = 1 << 14, STACK = 1 << 16;
alignas(16) unsigned char memory[MOST + WATCHED];

static ucontext_t scheduler;
static std::vector<ucontext_t> fibres;
static std::vector<bool> waiting;  // at a barrier; else the thread has come to its end
static std::function<void()> kernel;

static void __syncthreads() {
  waiting[threadIdx.x] = true;
  swapcontext(&fibres[threadIdx.x], &scheduler);
}

static void run_thread() {
  waiting[threadIdx.x] = false;
  kernel();
  waiting[threadIdx.x] = false;
}

// Whether all threads came to the same barriers.
static bool run_block(std::vector<std::vector<char>>& stacks) {
  const int threads = blockDim.x;
  for (int t = 0; t < threads; ++t) {
    getcontext(&fibres[t]);
    fibres[t].uc_stack.ss_sp = stacks[t].data();
    fibres[t].uc_stack.ss_size = STACK;
    fibres[t].uc_link = &scheduler;
    makecontext(&fibres[t], run_thread, 0);
  }
  for (;;) {
    int count = 0;
    for (int t = 0; t < threads; ++t) {
      threadIdx.x = t;
      swapcontext(&scheduler, &fibres[t]);
      count += waiting[t];
    }
    if (count == 0) return true;
    if (count < threads) return false;
  }
}

// 0; 1 if a block wrote behind its shared memory; 2 if a thread missed a barrier.
static int launch(int blocks, int threads, long long bytes, std::function<void()> body) {
  if (bytes > MOST) return 1;
  kernel = body;
  gridDim.x = blocks, blockDim.x = threads;
  fibres.resize(threads), waiting.assign(threads, false);
  std::vector<std::vector<char>> stacks(threads, std::vector<char>(STACK));
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    std::memset(memory, 0xff, MOST + WATCHED);
    if (!run_block(stacks)) return 2;
    for (long long i = bytes; i < MOST + WATCHED; ++i)
      if (memory[i] != 0xff) return 1;
  }
  return 0;
}
