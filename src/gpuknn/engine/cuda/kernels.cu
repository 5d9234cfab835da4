// The CUDA kernels of the GPU device: sums in the documented order, selection, refinement, merging.
//
// They are the CPU's kernels (cpu/kernels.py) once more, and give the same bits: float64 sums are made in the order that
// metric.py documents, with operations that the compiler may not contract.  device.py says how they are launched; the
// reasons behind thresholds, bias and slack are in bound.py.  No #include: NVRTC needs no CUDA headers then.
//
// table.py puts the structs Epoch, Kept, Found and Rule before this file, and `widen`.
//
// A kernel may be launched with any grid and any whole number of warps.  Where atomics decide an order, what comes of it
// is sorted by (distance, row) before it counts.

typedef long long i64;
typedef unsigned long long u64;

enum { COSINE, IP, L2, HAMMING };  // the places among the members of metric.Metric
enum { LANES = 8 };                // threads that make one sum

struct Half { unsigned short bits; };

#ifdef CUDA_ON_CPU
__device__ __forceinline__ double value(Half x) { return hc_half_to_float(x.bits); }
#else
__device__ __forceinline__ double value(Half x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}
#endif
template <class T> __device__ __forceinline__ double value(T x) { return widen(x); }

// The float32 number that is nearest to x; the conversion would make one that is subnormal zero (table.py).
__device__ __forceinline__ double as_float32(double x) {
  return fabs(x) < 0x1p-126 ? rint(x * 0x1p149) * 0x1p-149 : (double)(float)x;
}

// A term of a sum: a product, or a squared difference.
template <class T>
__device__ __forceinline__ double term(bool squared_difference, T x, double y) {
  if (!squared_difference) return __dmul_rn(value(x), y);
  double difference = __dadd_rn(value(x), -y);
  return __dmul_rn(difference, difference);
}

// The sum of d terms in the order of metric.summation_leaves, `leaves` (n, 2): where each ends, additions after it.
// LANES neighbouring threads call it together, each with its `lane`; all get the sum.
template <class T, class U>
__device__ double sum_of_terms(bool squared_difference, const T* x, const U* y, const i64* leaves, int n, int lane) {
  unsigned together = 0xffu << (threadIdx.x & 31 & ~(LANES - 1));
  double stack[20];  // leaves hold 64 terms or more, so d < 2^25
  int depth = 0;
  i64 start = 0;
  for (int leaf = 0; leaf < n; leaf++) {
    i64 stop = leaves[2 * leaf], whole = stop - (stop - start) % LANES;
    double total = 0;
    if (whole > start) {
      total = term(squared_difference, x[start + lane], value(y[start + lane]));
      for (i64 i = start + LANES + lane; i < whole; i += LANES)
        total = __dadd_rn(total, term(squared_difference, x[i], value(y[i])));
      for (int apart = 1; apart < LANES; apart *= 2)
        total = __dadd_rn(total, __shfl_xor_sync(together, total, apart));
    }
    for (i64 i = whole; i < stop; i++)
      total = __dadd_rn(total, term(squared_difference, x[i], value(y[i])));
    stack[depth++] = total;
    start = stop;
    for (i64 left = leaves[2 * leaf + 1]; left > 0; left--) {
      depth--;
      stack[depth - 1] = __dadd_rn(stack[depth - 1], stack[depth]);
    }
  }
  return stack[0];
}

// norms[j] = |rows[j]|^2, rows (m, d).
template <class T>
__device__ void squared_norms(const T* rows, i64 m, i64 d, const i64* leaves, int leaf_count, double* norms) {
  i64 step = (i64)gridDim.x * blockDim.x / LANES;
  int lane = threadIdx.x % LANES;
  for (i64 j = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES; j < m; j += step) {
    double norm = sum_of_terms(false, rows + j * d, rows + j * d, leaves, leaf_count, lane);
    if (lane == 0) norms[j] = norm;
  }
}

// The filter score that every row at a stored distance <= dist reaches with its bias: bound.py, step 3.
// to_score: zero, scale and margin of the query.
__device__ float proven_score(double dist, const double* to_score, double rounding) {
  double score = (to_score[0] - dist) * to_score[1];
  return (float)(score - (fabs(score) + fabs(dist) * to_score[1]) * rounding - to_score[2]);
}

// Thresholds from what is known before an epoch.
extern "C" __global__ void begin_epoch(const double* dists, const int* filled, const double* floor, const double* to_score,
                                 i64 nq, i64 k, double rounding, float* threshold, int* held) {
  for (i64 q = (i64)blockIdx.x * blockDim.x + threadIdx.x; q < nq; q += (i64)gridDim.x * blockDim.x) {
    double limit = floor[q];
    if (filled[q] == k) limit = fmin(limit, dists[q * k + k - 1]);
    threshold[q] = proven_score(limit, to_score + 3 * q, rounding);
    held[q] = 0;
  }
}

// Append the rows of a tile whose upper bound passes.  scores (nq, t) of the rows from `start` of the epoch on, each
// still to be multiplied by its row's `scale`; grid (nq, any).  There is always room (device.py); `lost` says if not.
extern "C" __global__ void select_passing(const float* scores, i64 nq, i64 t, i64 start, const float* scale, const float* bias,
                                  const float* threshold, const i64* itself, i64 epoch_first, i64 room, int* held,
                                  float* score, int* row, u64* lost) {
  i64 q = blockIdx.x;
  if (q >= nq) return;
  int lane = threadIdx.x & 31;
  i64 own = itself[q] - epoch_first - start, whole = (t + 31) / 32 * 32;  // a warp's lanes stay together in the loop
  float limit = threshold[q];
  for (i64 j = (i64)blockIdx.y * blockDim.x + threadIdx.x; j < whole; j += (i64)gridDim.y * blockDim.x) {
    float upper = 0;
    bool passes = false;
    if (j < t && j != own) {
      upper = __fadd_rn(__fmul_rn(scores[q * t + j], scale[start + j]), bias[start + j]);
      passes = upper >= limit;
    }
    unsigned passing = __ballot_sync(0xffffffffu, passes);
    if (!passing) continue;
    int leader = __ffs(passing) - 1, place = 0;
    if (lane == leader) place = atomicAdd(&held[q], __popc(passing));
    place = __shfl_sync(0xffffffffu, place, leader) + __popc(passing & ((1u << lane) - 1));
    if (!passes) continue;
    if (place < room) {
      score[q * room + place] = upper;
      row[q * room + place] = (int)(start + j);
    } else {
      atomicAdd(lost, 1ull);
    }
  }
}

// The order of floats as that of unsigned integers.
__device__ unsigned sortable(float x) {
  unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float from_sortable(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// One query with its neighbours so far and its candidates, in the hands of one block.
struct Query {
  double* dists;        // (k,) distances of the rows kept, ascending by (distance, id)
  i64* ids;             // (k,)
  int filled;           // how many of the k there are
  float* score;         // (n,) upper bounds of the candidates' scores
  int* row;             // (n,) their rows in the epoch
  double* exact;        // (n,) room for their distances
  int n;
  const double* to_score;
  float slack;
};

__device__ float proven(const Query& query, i64 e, double rounding) {
  return e < query.filled ? proven_score(query.dists[e], query.to_score, rounding)
                          : __fadd_rn(query.score[e - query.filled], -query.slack);
}

// The k-th largest of what the rows kept and the candidates are proven to reach, at least k of them: digit by digit.
__device__ float kth_proven(const Query& query, i64 k, double rounding) {
  __shared__ unsigned count[256], chosen, rank;
  unsigned prefix = 0, known = 0;
  if (threadIdx.x == 0) rank = (unsigned)k;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (unsigned b = threadIdx.x; b < 256; b += blockDim.x) count[b] = 0;
    __syncthreads();
    for (i64 e = threadIdx.x; e < query.filled + query.n; e += blockDim.x) {
      unsigned key = sortable(proven(query, e, rounding));
      if ((key & known) == prefix) atomicAdd(&count[key >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned digit = 255, left = rank;
      while (count[digit] < left) left -= count[digit--];
      chosen = digit;
      rank = left;
    }
    __syncthreads();
    prefix |= chosen << shift;
    known |= 255u << shift;
  }
  return from_sortable(prefix);
}

// Keep the candidates for which `stays` holds, in place; how many there are.  MEASURED: with their distances.
template <bool MEASURED, class Stays>
__device__ int compact(const Query& query, Stays stays) {
  __shared__ int before[33], base;
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) base = 0;
  for (int first = 0; first < query.n; first += blockDim.x) {
    int c = first + threadIdx.x;
    bool stay = c < query.n && stays(c);
    float score = stay ? query.score[c] : 0;
    int row = stay ? query.row[c] : 0;
    double exact = MEASURED && stay ? query.exact[c] : 0;
    unsigned staying = __ballot_sync(0xffffffffu, stay);
    if (lane == 0) before[warp + 1] = __popc(staying);
    __syncthreads();  // all have read: places up to here may be written
    if (threadIdx.x == 0) {
      before[0] = base;
      for (int w = 1; w <= blockDim.x / 32; w++) before[w] += before[w - 1];
      base = before[blockDim.x / 32];
    }
    __syncthreads();
    if (stay) {
      int place = before[warp] + __popc(staying & ((1u << lane) - 1));
      query.score[place] = score;
      query.row[place] = row;
      if (MEASURED) query.exact[place] = exact;
    }
    __syncthreads();
  }
  return base;
}

// Sort the candidates by (distance, row): a bitonic network in which every exchange puts the smaller one first, so that
// places beyond the last need not exist.
__device__ void sort_candidates(const Query& query) {
  for (int size = 2; size < 2 * query.n; size *= 2) {
    for (int apart = size - 1; apart > 0; apart = (apart == size - 1 ? size / 4 : apart / 2)) {
      __syncthreads();
      for (int a = threadIdx.x; a < query.n; a += blockDim.x) {
        int b = a ^ apart;
        if (b <= a || b >= query.n) continue;
        double x = query.exact[a], y = query.exact[b];
        int i = query.row[a], j = query.row[b];
        if (x > y || (x == y && i > j)) {
          query.exact[a] = y, query.exact[b] = x;
          query.row[a] = j, query.row[b] = i;
        }
      }
    }
  }
  __syncthreads();
}

// Merge the sorted candidates into the rows kept, all of which have lower ids; `dists` and `ids` (k,) are room.
__device__ int merge(const Query& query, i64 k, i64 epoch_first, double* dists, i64* ids) {
  i64 total = min((i64)query.filled + query.n, k);
  for (i64 e = threadIdx.x; e < query.filled + query.n; e += blockDim.x) {
    bool old = e < query.filled;
    i64 i = old ? e : e - query.filled;
    double dist = old ? query.dists[i] : query.exact[i];
    i64 low = 0, high = old ? query.n : query.filled;  // those of the others that come before
    while (low < high) {
      i64 middle = (low + high) / 2;
      if (old ? query.exact[middle] < dist : query.dists[middle] <= dist) low = middle + 1; else high = middle;
    }
    if (i + low < total) {
      dists[i + low] = dist;
      ids[i + low] = old ? query.ids[i] : epoch_first + query.row[i];
    }
  }
  __syncthreads();
  for (i64 i = threadIdx.x; i < total; i += blockDim.x) {
    query.dists[i] = dists[i];
    query.ids[i] = ids[i];
  }
  __syncthreads();
  return (int)total;
}

template <class T>
__device__ double distance(Rule rule, const T* row, const double* query, double norms, int lane) {
  double total = sum_of_terms(rule.metric == L2, row, query, rule.leaves, rule.leaf_count, lane);
  if (rule.metric == L2) return total;
  if (rule.metric == IP) return -total;
  return __dadd_rn(1.0, -(total / sqrt(norms)));
}
template <>  // sketches: a score is a distance
__device__ double distance(Rule, const u64*, const double*, double, int) { return 0; }

// For every query that holds more than `most` candidates: cut them; where still more than `most` are left, refine them
// and take them into the state.  A block is at one query at a time.
template <class T>
__device__ void settle(const T* rows, Epoch epoch, Kept kept, Found found, Rule rule, i64 most) {
  __shared__ u64 used;  // the largest share of the proven error, as the bits of a double >= 0
  i64 d = epoch.d, k = kept.k, room = found.room;
  for (i64 q = blockIdx.x; q < kept.nq; q += gridDim.x) {
    Query query = {kept.dists + q * k,    kept.ids + q * k,    kept.filled[q],
                   found.score + q * room, found.row + q * room, found.exact + q * room,
                   (int)min((i64)found.held[q], room), kept.to_score + 3 * q, kept.slack[q]};
    __syncthreads();  // all have read held and filled
    if (query.n <= most) continue;
    float limit = found.threshold[q];
    if (query.filled + query.n >= k) {
      limit = fmaxf(limit, kth_proven(query, k, rule.rounding));
      query.n = compact<false>(query, [&](int c) { return query.score[c] >= limit; });
    }
    if (query.n > most) {
      if (threadIdx.x == 0) used = 0;
      __syncthreads();
      int lane = threadIdx.x % LANES;
      double most_used = 0;
      for (int c = threadIdx.x / LANES; c < query.n; c += blockDim.x / LANES) {
        int j = query.row[c];
        double dist = epoch.bias[j] - query.score[c];
        if (rule.metric != HAMMING) {
          dist = distance(rule, rows + j * d, kept.queries + q * d, __dmul_rn(epoch.norms[j], kept.norms[q]), lane);
          double off = fabs(query.score[c] - (query.to_score[0] - dist) * query.to_score[1] - epoch.error[j]);
          most_used = fmax(most_used, (off - query.to_score[2]) / epoch.error[j]);
        }
        if (rule.single) dist = as_float32(dist);
        if (lane == 0) query.exact[c] = __dadd_rn(dist, 0.0);  // -0.0 and 0.0 are one distance, stored as 0.0
      }
      atomicMax(&used, (u64)__double_as_longlong(most_used));
      __syncthreads();
      if (threadIdx.x == 0) {
        atomicAdd(&found.sums[0], (u64)query.n);
        atomicMax(&found.sums[1], used);
      }
      // Every id kept so far is lower, so at an equal distance the row kept stays ahead.
      if (query.filled == k) {
        double kth = query.dists[k - 1];
        query.n = compact<true>(query, [&](int c) { return query.exact[c] < kth; });
      }
      sort_candidates(query);
      query.filled = merge(query, k, epoch.first, kept.spare_dists + q * k, kept.spare_ids + q * k);
      query.n = 0;
      if (query.filled == k) limit = fmaxf(limit, proven_score(query.dists[k - 1], query.to_score, rule.rounding));
    }
    if (threadIdx.x == 0) {
      found.threshold[q] = limit;
      found.held[q] = query.n;
      kept.filled[q] = query.filled;
    }
    __syncthreads();
  }
}

// The float16 number nearest to x, rounded once: 11 bits, or a multiple of 2^-24.  For |x| < 65520.
__device__ __forceinline__ double nearest_half(double x) {
  i64 exponent = max((__double_as_longlong(x) >> 52) & 0x7ff, (i64)(1023 - 14));
  double up = __longlong_as_double((2 * 1023 + 10 - exponent) << 52), down = __longlong_as_double((exponent - 10) << 52);
  return rint(x * up) * down;
}

// The sum of float16((x[i] scale)^2): multiples of 2^-24, so it is exact in any order while it is below 2^29.  LANES
// threads call it together, each with its `lane`; all get the sum.
__device__ double rounded_squares(const Half* x, i64 d, double scale, int lane) {
  unsigned together = 0xffu << (threadIdx.x & 31 & ~(LANES - 1));
  double sum = 0;
  for (i64 i = lane; i < d; i += LANES) sum += nearest_half(value(x[i]) * scale * (value(x[i]) * scale));
  for (int apart = 1; apart < LANES; apart *= 2) sum += __shfl_xor_sync(together, sum, apart);
  return sum;
}

// out[j] = rows[j], (m, d), divided by its length in float16 arithmetic; if its sum of squares is not from `low` to
// `high`, rows[j] factor[j], a power of two.  LANES threads work on a row.
extern "C" __global__ void unit_halves(const Half* rows, i64 m, i64 d, double low, double high, const double* factor,
                                       double* out) {
  i64 step = (i64)gridDim.x * blockDim.x / LANES;
  int lane = threadIdx.x % LANES;
  for (i64 j = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES; j < m; j += step) {
    const Half* x = rows + j * d;
    double scale = 1, sum = rounded_squares(x, d, scale, lane);
    if (!(sum >= low && sum < high)) {
      scale = factor[j];
      sum = rounded_squares(x, d, scale, lane);
    }
    double inverse = nearest_half(1 / nearest_half(sqrt(sum)));
    for (i64 i = lane; i < d; i += LANES) out[j * d + i] = nearest_half(value(x[i]) * scale * inverse);
  }
}

// Bit i of out[j], (m, bits / 8): whether rows[j] (m, d) is nearer to reference i than to the next of its POOL, which is
// a circle.  scores (m, bits): two that differ by more than `sure` tell; others are computed again.  LANES threads make
// the LANES bits of a byte.
enum { POOL = 64 };
template <class T>
__device__ void compare_references(const T* rows, i64 m, i64 d, const float* references, i64 bits, const float* scores,
                                   float sure, const i64* leaves, int n, int single, unsigned char* out) {
  int lane = threadIdx.x % LANES, apart_by = threadIdx.x & 31 & ~(LANES - 1);
  unsigned together = 0xffu << apart_by;
  for (i64 j = blockIdx.x; j < m; j += gridDim.x)
    for (i64 first = threadIdx.x / LANES * LANES; first < bits; first += blockDim.x) {
      i64 pool = first - first % POOL, at = first + lane - pool;
      double apart = (double)scores[j * bits + pool + at] - (double)scores[j * bits + pool + (at + 1) % POOL];
      unsigned byte = __ballot_sync(together, apart > sure) >> apart_by & 0xff;
      unsigned left = __ballot_sync(together, !(fabs(apart) > sure)) >> apart_by & 0xff;
      for (; left; left &= left - 1) {
        int bit = __ffs(left) - 1;
        const float* here = references + (first + bit) * d;
        const float* after = references + (pool + (first - pool + bit + 1) % POOL) * d;
        double x = sum_of_terms(false, rows + j * d, here, leaves, n, lane);
        double y = sum_of_terms(false, rows + j * d, after, leaves, n, lane);
        bool nearer = single ? as_float32(__dadd_rn(1, -x)) < as_float32(__dadd_rn(1, -y)) : x > y;
        byte = (byte & ~(1u << bit)) | (unsigned)nearer << bit;
      }
      if (lane == 0) out[j * bits / 8 + first / 8] = byte;
    }
}

#define NORMS(NAME, T)                                                                                              \
  extern "C" __global__ void squared_norms_##NAME(const T* rows, i64 m, i64 d, const i64* leaves, int leaf_count,    \
                                                  double* norms) {                                                  \
    squared_norms(rows, m, d, leaves, leaf_count, norms);                                                           \
  }
#define SETTLE(NAME, T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(256, 1) settle_##NAME(const T* rows, Epoch epoch, Kept kept,          \
                                                                     Found found, Rule rule, i64 most) {             \
    settle(rows, epoch, kept, found, rule, most);                                                                   \
  }
#define COMPARE(NAME, T)                                                                                            \
  extern "C" __global__ void compare_references_##NAME(const T* rows, i64 m, i64 d, const float* references, i64 bits, \
                                                       const float* scores, float sure, const i64* leaves, int n,      \
                                                       int single, unsigned char* out) {                                  \
    compare_references(rows, m, d, references, bits, scores, sure, leaves, n, single, out);                          \
  }
#define ALL(NAME, T) NORMS(NAME, T) SETTLE(NAME, T) COMPARE(NAME, T)
ALL(float16, Half)
ALL(float32, float)
ALL(float64, double)
ALL(uint8, unsigned char)
ALL(int8, signed char)
SETTLE(uint64, u64)

// scores (nq, t) = -(differing bits) of sketches (nq, words) and (t, words); grid (any, any), blocks of THREADS.
enum { SQUARE = 32, THREADS = 256, EACH = SQUARE * SQUARE / THREADS, APART = THREADS / SQUARE };
extern "C" __global__ void __launch_bounds__(THREADS) hamming_scores(const u64* queries, const u64* rows, i64 nq, i64 t,
                                                                     i64 words, float* scores) {
  __shared__ u64 x[SQUARE][SQUARE + 1], y[SQUARE][SQUARE + 1];
  int across = threadIdx.x % SQUARE, down = threadIdx.x / SQUARE;
  for (i64 q0 = (i64)blockIdx.x * SQUARE; q0 < nq; q0 += (i64)gridDim.x * SQUARE)
    for (i64 j0 = (i64)blockIdx.y * SQUARE; j0 < t; j0 += (i64)gridDim.y * SQUARE) {
      int bits[EACH] = {};
      for (i64 w0 = 0; w0 < words; w0 += SQUARE) {
        __syncthreads();
        for (int i = down; i < SQUARE; i += APART) {
          bool inside = w0 + across < words;
          y[i][across] = inside && q0 + i < nq ? queries[(q0 + i) * words + w0 + across] : 0;
          x[i][across] = inside && j0 + i < t ? rows[(j0 + i) * words + w0 + across] : 0;
        }
        __syncthreads();
        int width = (int)min(words - w0, (i64)SQUARE);
        for (int w = 0; w < width; w++)
#pragma unroll
          for (int n = 0; n < EACH; n++) bits[n] += __popcll(x[across][w] ^ y[down + APART * n][w]);
      }
#pragma unroll
      for (int n = 0; n < EACH; n++) {
        i64 q = q0 + down + APART * n;
        if (q < nq && j0 + across < t) scores[q * t + j0 + across] = -(float)bits[n];
      }
    }
}
