// The loops of block_attention and correlation_attention, forward and backward, against plain loops in double: ragged and tiny
// runs, more queries than go through together, padding full of NaN, rows of tables, strides, with canaries round what is written.
// The instruction set is the one of INTRAFORMER_CPU_ISA; 77 is returned where it cannot be used.
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

#include "block_attention/cpu_heads.h"
#include "correlation_attention/cpu_streams.h"

using namespace intraformer;

namespace {

int failures = 0;

void expect(bool good, const std::string& what) {
  if (!good && ++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

std::mt19937 random_bits(11);
float normal() { return std::normal_distribution<float>()(random_bits); }

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

std::unique_ptr<void, Free> aligned(int64_t bytes) {
  std::unique_ptr<void, Free> memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64));
  std::memset(memory.get(), 0, bytes);
  return memory;
}

// Where results go: canaries before and after, NaN between.
struct Result {
  static constexpr float CANARY = -12345.0f;
  std::vector<float> memory;
  explicit Result(int64_t count) : memory(count + 32, NAN) {
    for (int64_t i = 0; i < 16; ++i) memory[i] = memory[count + 16 + i] = CANARY;
  }
  float* data() { return memory.data() + 16; }
  void check(const std::vector<double>& wanted, bool bfloat16, const std::string& what) {
    const int64_t count = static_cast<int64_t>(wanted.size());
    for (int64_t i = 0; i < 16; ++i) {
      expect(memory[i] == CANARY && memory[count + 16 + i] == CANARY, what + ": wrote past the end");
    }
    double error = 0, largest = 0;
    for (int64_t i = 0; i < count; ++i) {
      expect(!std::isnan(data()[i]), what + ": NaN");
      error = std::fmax(error, std::fabs(data()[i] - wanted[i])), largest = std::fmax(largest, std::fabs(wanted[i]));
    }
    expect(error <= (bfloat16 ? 0.03 : 4e-6) * (1 + largest), what + ": error " + std::to_string(error));
  }
};

using Matrix = std::vector<std::vector<double>>;

Matrix zeros(int64_t rows, int64_t columns) { return Matrix(rows, std::vector<double>(columns, 0.0)); }

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// out += factor row
void add(std::vector<double>& out, double factor, const std::vector<double>& row) {
  for (size_t i = 0; i < out.size(); ++i) out[i] += factor * row[i];
}

// softmax(scale q k^T) v over the kept keys, for the queries that ask; and the gradients for dout.
struct Attention {
  Matrix out, dq, dk, dv;
  Attention(
      const Matrix& q,
      const Matrix& k,
      const Matrix& v,
      const Matrix& dout,
      const std::vector<bool>& asks,
      const std::vector<bool>& keep,
      double scale)
      : out(zeros(q.size(), v.empty() ? 0 : v[0].size())), dq(q), dk(k), dv(v) {
    for (Matrix* m : {&dq, &dk, &dv}) {
      for (auto& row : *m) row.assign(row.size(), 0.0);
    }
    for (size_t i = 0; i < q.size(); ++i) {
      std::vector<double> p(k.size(), 0.0), dp(k.size(), 0.0);
      double greatest = -INFINITY, sum = 0, mean = 0;
      for (size_t j = 0; j < k.size(); ++j) {
        if (keep[j]) greatest = std::fmax(greatest, p[j] = scale * dot(q[i], k[j]));
      }
      for (size_t j = 0; j < k.size(); ++j) sum += p[j] = keep[j] ? std::exp(p[j] - greatest) : 0.0;
      for (size_t j = 0; j < k.size() && asks[i]; ++j) {
        if (!keep[j]) continue;
        p[j] /= sum;
        add(out[i], p[j], v[j]);
        mean += p[j] * (dp[j] = dot(dout[i], v[j]));
      }
      for (size_t j = 0; j < k.size() && asks[i]; ++j) {
        if (!keep[j]) continue;
        const double ds = scale * p[j] * (dp[j] - mean);
        add(dq[i], ds, k[j]), add(dk[j], ds, q[i]), add(dv[j], p[j], dout[i]);
      }
    }
  }
};

int64_t bound(int64_t n, int64_t runs, int64_t m) { return m * (n / runs) + std::min(m, n % runs); }

// ---- block_attention ----

struct BlockCase {
  int64_t clusters, heads, tokens, width, blocks;
  bool masked, gathered, bfloat16;
  std::string name() const {
    std::string text = "block";
    for (const int64_t v : {clusters, heads, tokens, width, blocks}) text += ' ', text += std::to_string(v);
    return text + (masked ? " masked" : "") + (gathered ? " gathered" : "") + (bfloat16 ? " bfloat16" : "");
  }
};

void run(const BlockCase& c) {
  const int64_t B = c.clusters, H = c.heads, n = c.tokens, D = c.width, samples = 2 * n + 1;
  const int64_t row = H * (D + 2) + 1, rows = c.gathered ? samples : n, tables = c.gathered ? 1 : B;
  std::vector<int64_t> ids(B * n);
  for (int64_t i = 0; i < B * n; ++i) {
    ids[i] = c.gathered ? static_cast<int64_t>(random_bits() % samples) : i % n;
    // A whole cluster of padding, and here and there.
    if (c.masked && (i / n == 0 || random_bits() % 4 == 0)) ids[i] = -1 - static_cast<int64_t>(random_bits() % 3);
  }
  std::vector<std::vector<float>> inputs(3, std::vector<float>(tables * rows * row, NAN));
  std::vector<float> grad(B * n * row, NAN);
  const auto fill = [&](float* token) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t j = 0; j < D; ++j) token[h * (D + 2) + j] = normal();
    }
  };
  for (int64_t i = 0; i < B * n; ++i) {
    if (ids[i] < 0) continue;
    fill(grad.data() + i * row);
    for (auto& input : inputs) fill(input.data() + ((c.gathered ? 0 : i / n * rows) + ids[i]) * row);
  }
  const auto heads_of = [&](const std::vector<float>& v, int64_t cluster) {
    return block_attention::Heads{v.data(), cluster, D + 2, row, 1};
  };
  const int64_t stride = c.gathered ? 0 : rows * row;
  block_attention::Job job{};
  job.element = Element::float32, job.bfloat16 = c.bfloat16;
  job.clusters = B, job.heads = H, job.tokens = n, job.width = D, job.blocks = c.blocks;
  job.scale = 0.3f;
  job.query = heads_of(inputs[0], stride), job.key = heads_of(inputs[1], stride), job.value = heads_of(inputs[2], stride);
  job.rows = c.masked || c.gathered ? ids.data() : nullptr;
  job.in_order = !c.gathered;
  const auto& loops = block_attention::heads_loops();
  Result out(B * n * H * D), dq(B * n * H * D), dk(B * n * H * D), dv(B * n * H * D);
  const auto scratch = aligned(loops.scratch_bytes(job, false)), more = aligned(loops.scratch_bytes(job, true));
  const block_attention::Gradients gradients{heads_of(grad, n * row), Element::float32, dq.data(), dk.data(), dv.data()};
  for (int64_t task = block_attention::tasks(job) - 1; task >= 0; --task) {
    loops.forward(job, out.data(), task, scratch.get());
    loops.backward(job, gradients, task, more.get());
  }
  std::vector<double> wanted[4];
  for (auto& w : wanted) w.resize(B * n * H * D);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t m = 0; m < c.blocks; ++m) {
        const int64_t first = bound(n, c.blocks, m), length = bound(n, c.blocks, m + 1) - first;
        Matrix x[4];
        std::vector<bool> keep;
        for (int64_t t = first; t < first + length; ++t) {
          const int64_t id = ids[b * n + t];
          keep.push_back(id >= 0);
          for (int i = 0; i < 4; ++i) {
            const float* const from =
                (i < 3 ? inputs[i].data() + b * stride + id * row : grad.data() + (b * n + t) * row) + h * (D + 2);
            x[i].emplace_back(D, 0.0);
            for (int64_t j = 0; j < D && id >= 0; ++j) x[i].back()[j] = from[j];
          }
        }
        const Attention a(x[0], x[1], x[2], x[3], keep, keep, job.scale);
        for (int64_t t = 0; t < length; ++t) {
          for (int64_t j = 0; j < D; ++j) {
            const int64_t at = ((b * n + first + t) * H + h) * D + j;
            wanted[0][at] = a.out[t][j], wanted[1][at] = a.dq[t][j], wanted[2][at] = a.dk[t][j], wanted[3][at] = a.dv[t][j];
          }
        }
      }
    }
  }
  out.check(wanted[0], c.bfloat16, c.name() + ": output");
  dq.check(wanted[1], c.bfloat16, c.name() + ": gradient of q");
  dk.check(wanted[2], c.bfloat16, c.name() + ": gradient of k");
  dv.check(wanted[3], c.bfloat16, c.name() + ": gradient of v");
}

// ---- correlation_attention ----

struct StreamCase {
  int64_t clusters, members, anchors, width, streams, weights;
  bool masked, anchor_asks, bfloat16;
  std::string name() const {
    std::string text = "streams";
    for (const int64_t v : {clusters, members, anchors, width, streams, weights}) text += ' ', text += std::to_string(v);
    return text + (masked ? " masked" : "") + (anchor_asks ? " anchor asks" : "") + (bfloat16 ? " bfloat16" : "");
  }
};

void run(const StreamCase& c) {
  const int64_t B = c.clusters, r = c.members, s = c.anchors, d = c.width, row = d + 3;
  const int64_t context = c.anchor_asks ? r : s;
  std::vector<uint8_t> valid(B * context, 1);
  for (int64_t i = 0; i < B * context && c.masked; ++i) valid[i] = i / context != 0 && random_bits() % 4 != 0;
  std::vector<float> member(B * r * row, NAN), anchor(B * s * row, NAN), grad(B * r * row, NAN), weight(c.weights * d * d);
  const auto fill = [&](std::vector<float>& v, const uint8_t* kept) {
    for (size_t i = 0; i < v.size() / row; ++i) {
      for (int64_t j = 0; j < d && (kept == nullptr || kept[i]); ++j) v[i * row + j] = normal();
    }
  };
  fill(member, c.anchor_asks ? valid.data() : nullptr), fill(anchor, c.anchor_asks ? nullptr : valid.data());
  fill(grad, nullptr);
  for (float& w : weight) w = normal() / float(d);
  correlation_attention::Job job{};
  job.element = Element::float32, job.bfloat16 = c.bfloat16;
  job.clusters = B, job.members = r, job.anchors = s, job.width = d, job.streams = c.streams, job.weights = c.weights;
  job.clusters_a_task = 2;
  job.anchor_asks = c.anchor_asks;
  job.member = {member.data(), r * row, row, 1}, job.anchor = {anchor.data(), s * row, row, 1};
  if (c.masked) job.valid = valid.data(), job.valid_cluster = context, job.valid_row = 1;
  const auto& loops = correlation_attention::streams_loops();
  const int64_t bytes = loops.packed_bytes(job);
  const auto packed = aligned(c.weights * bytes), packed_t = aligned(c.weights * bytes);
  for (int64_t w = 0; w < c.weights; ++w) {
    for (int64_t p = 0; p < loops.panels(job); ++p) {
      const Strided matrix{weight.data() + w * d * d, Element::float32, d, 1};
      loops.pack(job, matrix, false, p, static_cast<char*>(packed.get()) + w * bytes);
      loops.pack(job, matrix, true, p, static_cast<char*>(packed_t.get()) + w * bytes);
    }
  }
  Result out(B * r * d), projected(B * r * d), asked(B * r * d), parts(B * c.streams * s * d), dm(B * r * d), da(B * s * d),
      dw(c.weights * d * d);
  const correlation_attention::Gradients gradients{{grad.data(), r * row, row, 1},
                                                   packed_t.get(),
                                                   projected.data(),
                                                   asked.data(),
                                                   parts.data(),
                                                   dm.data(),
                                                   da.data(),
                                                   dw.data()};
  const auto scratch = aligned(loops.scratch_bytes(job, false)), more = aligned(loops.scratch_bytes(job, true));
  for (int64_t task = correlation_attention::groups(job) * c.streams - 1; task >= 0; --task) {
    loops.forward(job, packed.get(), out.data(), projected.data(), task, scratch.get());
    loops.backward(job, gradients, task, more.get());
  }
  for (int64_t b = 0; b < B; ++b) loops.anchor_gradient(job, gradients, b);
  for (int64_t task = 0; task < loops.weight_tasks(job); ++task) loops.weight_gradient(job, gradients, task, more.get());

  std::vector<double> wanted_out(B * r * d), wanted_m(B * r * d), wanted_a(B * s * d), wanted_w(c.weights * d * d);
  for (int64_t b = 0; b < B; ++b) {
    const auto tokens = [&](const std::vector<float>& from, int64_t all, int64_t first, int64_t length, const uint8_t* kept) {
      Matrix x = zeros(length, d);
      for (int64_t t = 0; t < length; ++t) {
        for (int64_t j = 0; j < d && (kept == nullptr || kept[t]); ++j) x[t][j] = from[(b * all + first + t) * row + j];
      }
      return x;
    };
    for (int64_t m = 0; m < c.streams; ++m) {
      const int64_t first = bound(r, c.streams, m), length = bound(r, c.streams, m + 1) - first, w = c.weights == 1 ? 0 : m;
      const uint8_t* const kept = valid.data() + b * context + (c.anchor_asks ? first : 0);
      const int64_t seen = c.anchor_asks ? length : s;
      const Matrix x = c.anchor_asks ? tokens(anchor, s, 0, length, nullptr) : tokens(member, r, first, length, nullptr);
      const Matrix y = c.anchor_asks ? tokens(member, r, first, length, kept) : tokens(anchor, s, 0, s, kept);
      Matrix t = zeros(length, d), dx = zeros(length, d);
      for (int64_t i = 0; i < length; ++i) {
        for (int64_t k = 0; k < d; ++k) {
          for (int64_t j = 0; j < d; ++j) t[i][j] += x[i][k] * weight[(w * d + k) * d + j];
        }
      }
      const Attention a(
          t, y, y, tokens(grad, r, first, length, nullptr), std::vector<bool>(length, true), std::vector<bool>(kept, kept + seen),
          1.0);
      for (int64_t i = 0; i < length; ++i) {
        for (int64_t k = 0; k < d; ++k) {
          for (int64_t j = 0; j < d; ++j) {
            dx[i][k] += a.dq[i][j] * weight[(w * d + k) * d + j];
            wanted_w[(w * d + k) * d + j] += x[i][k] * a.dq[i][j];
          }
        }
      }
      const auto add_rows = [&](std::vector<double>& to, int64_t at, const Matrix& rows) {
        for (size_t i = 0; i < rows.size(); ++i) {
          for (int64_t j = 0; j < d; ++j) to[(at + i) * d + j] += rows[i][j];
        }
      };
      Matrix dy = a.dk;
      for (size_t i = 0; i < dy.size(); ++i) add(dy[i], 1.0, a.dv[i]);
      add_rows(wanted_out, b * r + first, a.out);
      add_rows(wanted_m, b * r + first, c.anchor_asks ? dy : dx);
      add_rows(wanted_a, b * s, c.anchor_asks ? dx : dy);
    }
  }
  out.check(wanted_out, c.bfloat16, c.name() + ": output");
  dm.check(wanted_m, c.bfloat16, c.name() + ": gradient of the member");
  da.check(wanted_a, c.bfloat16, c.name() + ": gradient of the anchor");
  dw.check(wanted_w, c.bfloat16, c.name() + ": gradient of the weight");
}

}  // namespace

int main() {
  try {
    std::printf("instruction set %s\n", name(instruction_set()));
  } catch (const std::invalid_argument& error) {
    std::printf("not here: %s\n", error.what());
    return 77;
  }
  for (const bool bfloat16 : {false, true}) {
    for (const bool masked : {false, true}) {
      for (const bool gathered : {false, true}) {
        run(BlockCase{3, 2, 23, 16, 3, masked, gathered, bfloat16});
        run(BlockCase{2, 3, 40, 33, 1, masked, gathered, bfloat16});
        run(BlockCase{2, 1, 3, 7, 5, masked, gathered, bfloat16});     // empty blocks
        run(BlockCase{2, 1, 185, 24, 1, masked, gathered, bfloat16});  // three blocks of queries
      }
      for (const bool anchor_asks : {false, true}) {
        run(StreamCase{3, 23, 8, 32, 3, 3, masked, anchor_asks, bfloat16});
        run(StreamCase{2, 2, 1, 17, 3, 1, masked, anchor_asks, bfloat16});     // an empty stream
        run(StreamCase{2, 180, 91, 40, 2, 2, masked, anchor_asks, bfloat16});  // two blocks of queries
        run(StreamCase{2, 5, 5, 144, 1, 1, masked, anchor_asks, bfloat16});    // two groups of panels of a weight
        run(StreamCase{
            9, 57, 20, 32, 3, 3, masked, anchor_asks, bfloat16});  // more rows than a gradient of a weight adds up at once
      }
    }
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
