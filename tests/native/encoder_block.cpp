// The fused block against plain loops in double: ragged and tiny sub-clusters, masks, both directions of C-ATT, one head and
// many, the layers of other encoders, strides, every way to compute, with NaN in the padding, canaries round what is written, and the tasks in any order.
// The instruction set is the one of INTRAFORMER_CPU_ISA; 77 is returned where it cannot be used.
#include "encoder_block/cpu_block.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/instruction_set.h"

using namespace intraformer;
using namespace intraformer::encoder_block;

namespace {

int failures = 0;

void expect(bool good, const std::string& what) {
  if (!good && ++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

const char* const NAMES[] = {"float32", "bfloat16", "int8"};

struct Case {
  int64_t d, heads, hidden, clusters, tokens, streams;
  bool masked, anchor_asks;
  Compute compute;
  int64_t clusters_a_task;
  Layer layer{};
  std::string name() const {
    std::string text;
    for (const int64_t v : {d, heads, hidden, clusters, tokens, streams}) text += std::to_string(v) + " ";
    return text + (masked ? "masked " : "") + (anchor_asks ? "anchor " : "member ") + NAMES[static_cast<int>(compute)] +
           (layer.post_norm ? " post-norm" : "") + (layer.relu ? " relu" : "") + (layer.padding_asks ? " padding asks" : "");
  }
};

using Matrix = std::vector<std::vector<double>>;  // rows

// Brings numbers [first, end) of a row to whole multiples of a step.
void quantize(std::vector<double>& row, size_t first, size_t end) {
  double largest = 0;
  for (size_t j = first; j < end; ++j) largest = std::fmax(largest, std::fabs(row[j]));
  for (size_t j = first; j < end && largest > 0; ++j) row[j] = std::nearbyint(row[j] * 127 / largest) * largest / 127;
}

// x weight^T + bias, weight [out, K] from its row `first` on. With int8 there is a step for every 512 numbers of a row of x where K
// is that of the hidden layer.
Matrix linear(
    Matrix x, const float* weight, const float* bias, int64_t out, const Case& c, bool hidden = false, int64_t first = 0) {
  const size_t K = x.empty() ? 0 : x[0].size(), group = hidden ? 512 : K;
  Matrix y(x.size(), std::vector<double>(out)), w(out, std::vector<double>(K));
  for (int64_t n = 0; n < out; ++n) {
    for (size_t k = 0; k < K; ++k) w[n][k] = weight[(first + n) * K + k];
    if (c.compute == Compute::int8) quantize(w[n], 0, K);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t k = 0; k < K && c.compute == Compute::int8; k += group) quantize(x[i], k, std::min(K, k + group));
    for (int64_t n = 0; n < out; ++n) {
      y[i][n] = bias == nullptr ? 0.0 : bias[first + n];
      for (size_t k = 0; k < K; ++k) y[i][n] += x[i][k] * w[n][k];
    }
  }
  return y;
}

Matrix norm(const Matrix& x, const float* weight, const float* bias) {
  Matrix y = x;
  for (auto& row : y) {
    double mean = 0, variance = 0;
    for (const double v : row) mean += v / row.size();
    for (const double v : row) variance += (v - mean) * (v - mean) / row.size();
    for (size_t j = 0; j < row.size(); ++j) row[j] = (row[j] - mean) / std::sqrt(variance + 1e-5) * weight[j] + bias[j];
  }
  return y;
}

// softmax(scale q k^T) v over the columns [c0, c0 + width) and the kept rows of k and v.
void attend(
    const Matrix& q,
    const Matrix& k,
    const Matrix& v,
    const std::vector<bool>& keep,
    double scale,
    int64_t c0,
    int64_t width,
    Matrix& out) {
  for (size_t i = 0; i < q.size(); ++i) {
    std::vector<double> p(k.size(), 0.0);
    double greatest = -INFINITY, sum = 0;
    for (size_t j = 0; j < k.size(); ++j) {
      if (!keep[j]) continue;
      for (int64_t c = c0; c < c0 + width; ++c) p[j] += scale * q[i][c] * k[j][c];
      greatest = std::fmax(greatest, p[j]);
    }
    for (size_t j = 0; j < k.size(); ++j) sum += p[j] = keep[j] ? std::exp(p[j] - greatest) : 0.0;
    if (sum == 0) sum = 1;
    for (int64_t c = c0; c < c0 + width; ++c) {
      out[i][c] = 0;
      for (size_t j = 0; j < k.size(); ++j) out[i][c] += keep[j] ? p[j] / sum * v[j][c] : 0.0;
    }
  }
}

void add(Matrix& x, const Matrix& y) {
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x[i].size(); ++j) x[i][j] += y[i][j];
  }
}

Matrix block(
    const Matrix& h,
    const Matrix& h0,
    const std::vector<bool>& keep,
    const std::vector<bool>& keep0,
    const Case& c,
    const float* const* p,
    bool cross) {
  const int64_t d = c.d, width = d / c.heads;
  const bool post_norm = c.layer.post_norm;
  const Matrix x = post_norm ? h : norm(h, p[0], p[1]);
  const Matrix q = linear(x, p[2], p[3], d, c), k = linear(x, p[2], p[3], d, c, false, d),
               v = linear(x, p[2], p[3], d, c, false, 2 * d);
  Matrix attended(h.size(), std::vector<double>(d)), result = h;
  for (int64_t head = 0; head < c.heads; ++head)
    attend(q, k, v, keep, 1 / std::sqrt(double(width)), head * width, width, attended);
  for (size_t i = 0; i < h.size(); ++i) {
    if (!keep[i] && !c.layer.padding_asks) attended[i].assign(d, 0.0);
  }
  add(result, linear(attended, p[4], p[5], d, c));
  if (post_norm) result = norm(result, p[0], p[1]);
  if (cross) {
    Matrix member = norm(result, p[13], p[14]), anchor = norm(h0, p[15], p[16]);
    Matrix asks = c.anchor_asks ? anchor : member;
    asks.resize(h.size());
    const Matrix& context = c.anchor_asks ? member : anchor;
    std::vector<float> transposed(d * d);
    for (int64_t i = 0; i < d * d; ++i) transposed[i] = p[12][i % d * d + i / d];
    const Matrix query = linear(asks, transposed.data(), nullptr, d, c);
    Matrix answer(asks.size(), std::vector<double>(d, 0.0));
    attend(query, context, context, c.anchor_asks ? keep : keep0, 1.0, 0, d, answer);
    add(result, answer);
  }
  Matrix hidden = linear(post_norm ? result : norm(result, p[6], p[7]), p[8], p[9], c.hidden, c);
  for (auto& row : hidden) {
    for (double& v : row) v = c.layer.relu ? std::fmax(v, 0.0) : 0.5 * v * std::erfc(-v / std::sqrt(2.0));
  }
  add(result, linear(hidden, p[10], p[11], d, c, true));
  return post_norm ? norm(result, p[6], p[7]) : result;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;
Memory zeros(int64_t bytes) {
  Memory memory(std::aligned_alloc(64, bytes));
  std::memset(memory.get(), 0, bytes);
  return memory;
}

void run(const Case& c, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const bool padding_asks = c.anchor_asks || c.layer.padding_asks;
  const int64_t B = c.clusters, n = c.tokens, d = c.d, k = c.streams, token_stride = d + 3, cluster_stride = n * token_stride + 5;
  const int64_t lengths[CROSS_PARAMETERS] = {d, d,     3 * d * d, 3 * d, d * d, d, d, d, c.hidden * d, c.hidden, d * c.hidden,
                                             d, d * d, d,         d,     d,     d};
  std::vector<std::vector<float>> storage;
  std::vector<Memory> packed;
  std::vector<const void*> pointers;
  std::vector<Parameters> parameters(k);
  for (int64_t m = 0; m < k; ++m) {
    const Sizes sizes{d, c.heads, c.hidden, m > 0, c.compute};
    for (int i = 0; i < (m > 0 ? CROSS_PARAMETERS : PARAMETERS); ++i) {
      storage.emplace_back(lengths[i]);
      const bool weight_of_norm = i == 0 || i == 6 || i == 13 || i == 15;
      for (float& v : storage.back()) v = normal(random) / std::sqrt(float(d)) + (weight_of_norm ? 1.0f : 0.0f);
      if (i == 12) {
        for (float& v : storage.back()) v /= std::sqrt(float(d));
      }
      parameters[m].values[i] = storage.back().data();
    }
    packed.push_back(zeros(block_loops().packed_bytes(sizes)));
    block_loops().pack(sizes, parameters[m], packed.back().get());
    pointers.push_back(packed.back().get());
  }
  std::vector<float> input(B * cluster_stride, NAN);
  std::vector<uint8_t> valid(B * n, 1);
  for (int64_t i = 0; i < B * n; ++i) {
    if (c.masked) valid[i] = i / n != 0 && random() % 4 != 0;  // a whole cluster of padding
    float* const token = input.data() + i / n * cluster_stride + i % n * token_stride;
    // Padding that asks takes part (op.h).
    for (int64_t j = 0; j < d; ++j) token[j] = valid[i] ? normal(random) : padding_asks ? 0.5f : NAN;
  }
  Job job{};
  job.sizes = {d, c.heads, c.hidden, k > 1, c.compute};
  job.clusters = B, job.tokens = n, job.streams = k;
  job.input = input.data(), job.cluster_stride = cluster_stride, job.token_stride = token_stride;
  if (c.masked) job.valid = valid.data(), job.valid_cluster_stride = n, job.valid_token_stride = 1;
  job.packed = pointers.data();
  job.anchor_asks = c.anchor_asks;
  job.epsilon = 1e-5f;
  job.layer = c.layer;
  const float canary = -12345.0f;
  std::vector<float> before;
  for (const int64_t clusters_a_task : {c.clusters_a_task, int64_t{1}}) {
    std::vector<float> output(B * n * d + 2 * 16, canary);
    job.output = output.data() + 16;
    job.clusters_a_task = clusters_a_task;
    const int64_t bytes = block_loops().scratch_bytes(job);
    const Memory scratch = zeros(bytes);
    for (int64_t task = k * groups(job) - 1; task >= 0; --task) block_loops().run(job, task, scratch.get());
    for (int64_t j = 0; j < 16; ++j) {
      expect(output[j] == canary && output[16 + B * n * d + j] == canary, c.name() + ": wrote past the output");
    }
    if (before.empty()) before = output;
    for (int64_t i = 0; i < B * n * d; ++i) {
      if (valid[i / d]) expect(output[16 + i] == before[16 + i], c.name() + ": not the same bits in other groups of clusters");
    }
  }
  double error = 0, square = 0;
  int64_t count = 0;
  for (int64_t b = 0; b < B; ++b) {
    Matrix h0;
    std::vector<bool> keep0;
    for (int64_t m = 0, start = 0; m < k; ++m) {
      const int64_t length = n / k + (m < n % k);
      Matrix h(length, std::vector<double>(d));
      std::vector<bool> keep(length);
      for (int64_t t = 0; t < length; ++t) {
        keep[t] = valid[b * n + start + t] != 0;
        for (int64_t j = 0; j < d; ++j) h[t][j] = input[b * cluster_stride + (start + t) * token_stride + j];
      }
      if (m == 0) h0 = h, keep0 = keep;
      const Matrix wanted = block(h, h0, keep, keep0, c, parameters[m].values, m > 0);
      for (int64_t t = 0; t < length; ++t) {
        for (int64_t j = 0; j < d && (keep[t] || padding_asks); ++j, ++count) {
          const double difference = before[16 + (b * n + start + t) * d + j] - wanted[t][j];
          expect(!std::isnan(difference), c.name() + ": NaN");
          error = std::fmax(error, std::fabs(difference)), square += difference * difference;
        }
      }
      start += length;
    }
  }
  const double mean = count ? std::sqrt(square / count) : 0;
  // For int8 the plain loops are quantized as well: a number that lies between two steps may still fall to the other one.
  const double largest[] = {2e-5, 0.15, 0.03}, root_mean_square[] = {2e-6, 0.02, 4e-4};
  expect(
      error <= largest[static_cast<int>(c.compute)] && mean <= root_mean_square[static_cast<int>(c.compute)],
      c.name() + ": error " + std::to_string(error) + ", root mean square " + std::to_string(mean));
}

}  // namespace

int main() {
  try {
    std::printf("instruction set %s\n", name(instruction_set()));
  } catch (const std::invalid_argument& error) {
    std::printf("not here: %s\n", error.what());
    return 77;
  }
  std::mt19937 random(7);
  for (const Compute compute : {Compute::float32, Compute::bfloat16, Compute::int8}) {
    for (const bool masked : {false, true}) {
      for (const bool anchor_asks : {false, true}) {
        run({32, 2, 64, 3, 23, 3, masked, anchor_asks, compute, 2}, random);
        run({48, 3, 80, 5, 9, 4, masked, anchor_asks, compute, 4}, random);
        run({48, 1, 16, 2, 3, 4, masked, anchor_asks, compute, 2}, random);  // an empty sub-cluster
      }
      run({64, 4, 1040, 2, 37, 1, masked, false, compute, 1}, random);  // more than a chunk of the hidden layer
      run({16, 1, 16, 2, 181, 2, masked, false, compute, 1}, random);   // more than a block of rows
    }
  }
  std::mt19937 other(11);  // layers of other encoders
  for (const bool relu : {false, true}) {
    for (const bool masked : {false, true}) {
      for (const Compute compute : {Compute::float32, Compute::bfloat16}) {
        run({32, 2, 48, 5, 21, 1, masked, false, compute, 2, {true, relu, true}}, other);
        run({48, 1, 80, 3, 9, 1, masked, false, compute, 2, {false, relu, true}}, other);
        run({48, 3, 80, 3, 19, 2, masked, false, compute, 2, {false, relu, false}}, other);
        run({64, 4, 1040, 2, 90, 1, masked, false, compute, 1, {true, relu, false}}, other);
      }
    }
    // Few numbers, since any of them may fall to another step.
    run({32, 2, 48, 2, 5, 1, false, false, Compute::int8, 2, {true, relu, true}}, other);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
