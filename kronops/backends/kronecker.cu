// Several small Kronecker factors applied in one sweep over the memory of a GPU.
//
// An array seen as (left, p1 * ... * pm, right) becomes one seen as (left, q1 * ... * qm, right):
// the Kronecker product of A1, ..., Am multiplies its middle axis. A block of threads brings a tile of it, `lefts` by all
// rows by `rights`, to shared memory, multiplies it there by every factor, and writes it once.
// A stage is a run of factors that one thread applies in its registers to numbers of its own.
//
// Plain C++17 but for a few words of CUDA: tests run this very file on a CPU.

constexpr int THREADS = 256;  // of a block, at most

template <int Rows, int Columns>
struct Factor {
  static constexpr int rows = Rows, columns = Columns, entries = Rows * Columns;
};

// Factors that follow each other, the last one first, applied to `Fibers` fibers by each thread.
template <int Fibers, class... Factors>
struct Stage {
  static constexpr int fibers = Fibers;
  static constexpr int rows = (Factors::rows * ...), columns = (Factors::columns * ...);
  static constexpr int entries = (Factors::entries + ...);
};

// Where a tile keeps its number i: shared memory has 32 banks of 4 bytes, and numbers whose
// distance is a power of two would be in one of them.
template <class T>
__device__ inline int slot(int i) {
  return i + i / (128 / int(sizeof(T)));
}

// -- in the registers of a thread -----------------------------------------------------------------

// y = (I x matrix x I) x, a Kronecker product, with the columns of the matrix one after another.
template <int Before, int Rows, int Columns, int After, class T>
__device__ inline void multiply(const T* matrix, const T (&x)[Before * Columns * After],
                                T (&y)[Before * Rows * After]) {
#pragma unroll
  for (int i = 0; i < Before * Rows * After; ++i) y[i] = T(0);
#pragma unroll
  for (int column = 0; column < Columns; ++column) {
#pragma unroll
    for (int row = 0; row < Rows; ++row) {
      const T entry = matrix[column * Rows + row];
#pragma unroll
      for (int b = 0; b < Before; ++b) {
#pragma unroll
        for (int a = 0; a < After; ++a)
          y[(b * Rows + row) * After + a] += entry * x[(b * Columns + column) * After + a];
      }
    }
  }
}

// All factors of a stage; `After` counts the rows of those before, and the fibers beside.
template <int After, class T, int Inputs, int Outputs, int Fibers, class First, class... Rest>
__device__ inline void apply(Stage<Fibers, First, Rest...>, const T* entries, const T (&x)[Inputs],
                             T (&y)[Outputs]) {
  constexpr int before = Inputs / (First::columns * After);
  if constexpr (sizeof...(Rest) == 0) {
    multiply<before, First::rows, First::columns, After>(entries, x, y);
  } else {
    T between[before * First::rows * After];
    multiply<before, First::rows, First::columns, After>(entries, x, between);
    apply<After * First::rows>(Stage<Fibers, Rest...>{}, entries + First::entries, between, y);
  }
}

// -- in the shared memory of a block --------------------------------------------------------------

// A stage on the view (before, columns, after) of a tile; `in` may be `out` if rows are columns.
template <class S, class T>
__device__ inline void multiply_tile(const T* entries, const T* in, T* out, int before, int after) {
  const int fibers = before * after, step = blockDim.x;
  for (int first = threadIdx.x; first < fibers; first += S::fibers * step) {
    T x[S::columns * S::fibers], y[S::rows * S::fibers];
#pragma unroll
    for (int k = 0; k < S::fibers; ++k) {
      const int fiber = first + k * step, start = fiber / after * S::columns * after + fiber % after;
#pragma unroll
      for (int i = 0; i < S::columns; ++i)
        x[i * S::fibers + k] = fiber < fibers ? in[slot<T>(start + i * after)] : T(0);
    }
    apply<S::fibers>(S{}, entries, x, y);
#pragma unroll
    for (int k = 0; k < S::fibers; ++k) {
      const int fiber = first + k * step, start = fiber / after * S::rows * after + fiber % after;
      if (fiber >= fibers) break;
#pragma unroll
      for (int i = 0; i < S::rows; ++i) out[slot<T>(start + i * after)] = y[i * S::fibers + k];
    }
  }
  __syncthreads();
}

// All stages, from one buffer to the other and back, or in place; where the result is.
template <class T, class First, class... Rest>
__device__ inline T* multiply_tile_by_all(const T* entries, T* tile, T* other, int before,
                                          int after) {
  constexpr bool in_place = First::rows == First::columns;
  before /= First::columns;
  T* made = in_place ? tile : other;
  multiply_tile<First>(entries, tile, made, before, after);
  if constexpr (sizeof...(Rest) == 0) {
    return made;
  } else {
    return multiply_tile_by_all<T, Rest...>(entries + First::entries, made,
                                            in_place ? other : tile, before, after * First::rows);
  }
}

// -- the sweep ------------------------------------------------------------------------------------

// `entries` are those of all factors, column by column, the last factor first. `room` is the size of
// each of two buffers; the second is there only if a stage is not square. Tiles are whole in `right`
// (rights == right), or have one of `left` (lefts == 1): so each row of one follows the row before.
template <class T, class... Stages>
__global__ void __launch_bounds__(THREADS)
    kronecker(const T* __restrict__ entries, const T* __restrict__ x, T* __restrict__ out,
              long long left, long long right, long long lefts, long long rights, long long room) {
  constexpr int rows = (Stages::rows * ...), columns = (Stages::columns * ...);
  constexpr int count = (Stages::entries + ...);
  extern __shared__ __align__(16) unsigned char memory[];
  T* const matrices = reinterpret_cast<T*>(memory);
  T* const tile = matrices + count;
  for (int i = threadIdx.x; i < count; i += blockDim.x) matrices[i] = entries[i];

  const long long across = (right + rights - 1) / rights;
  const long long tiles = (left + lefts - 1) / lefts * across;
  for (long long index = blockIdx.x; index < tiles; index += gridDim.x) {
    const long long i0 = index / across * lefts, j0 = index % across * rights;
    const int height = int(left - i0 < lefts ? left - i0 : lefts);
    const int width = int(right - j0 < rights ? right - j0 : rights);
    const T* const source = x + i0 * columns * right + j0;
    T* const target = out + i0 * rows * right + j0;
    for (int i = threadIdx.x; i < height * columns * width; i += blockDim.x)
      tile[slot<T>(i)] = source[i / width * right + i % width];
    __syncthreads();
    const T* const made =
        multiply_tile_by_all<T, Stages...>(matrices, tile, tile + room, height * columns, width);
    for (int i = threadIdx.x; i < height * rows * width; i += blockDim.x)
      target[i / width * right + i % width] = made[slot<T>(i)];
    // No barrier: the slots that a thread fills next are those that it has just read.
  }
}
