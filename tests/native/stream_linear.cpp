// The linear layers of all streams against plain loops in double: each of what stands in front, ragged and empty streams, chunks and
// blocks, bfloat16 tokens, strides, canaries round what is written, and the tasks of a step in any order.
// The instruction set is the one of INTRAFORMER_CPU_ISA; 77 is returned where it cannot be used.
#include "stream_linear/cpu_linear.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/instruction_set.h"

using namespace intraformer;
using namespace intraformer::stream_linear;

namespace {

int failures = 0;

struct Case {
  int64_t clusters, tokens, streams, inputs, outputs;
  Before before;
  bool bfloat16, residual;
};

std::string name(const Case& c) {
  std::string text;
  for (const int64_t v : {c.clusters, c.tokens, c.streams, c.inputs, c.outputs, static_cast<int64_t>(c.before)}) {
    text += std::to_string(v) + " ";
  }
  return text + (c.bfloat16 ? "bfloat16" : "float32") + (c.residual ? " residual" : "");
}

std::mt19937 generator(7);

std::vector<float> draw(int64_t count, double size = 1.0) {
  std::normal_distribution<float> normal(0.0f, static_cast<float>(size));
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(generator);
  return numbers;
}

float rounded(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  u = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
  std::memcpy(&x, &u, 4);
  return x;
}

// Tokens with a gap of NaN after each, in float32 or rounded to bfloat16; `values` gets what is stored.
struct Stored {
  std::vector<uint16_t> halves;
  std::vector<float> floats;
  Tokens tokens;

  Stored(std::vector<float>& values, const Case& c, int64_t width, bool half) {
    constexpr int64_t GAP = 5;
    const int64_t rows = c.clusters * c.tokens, step = width + GAP;
    floats.assign(rows * step, NAN);
    halves.assign(half ? rows * step : 0, 0x7fc0);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < width; ++i) {
        float& x = values[r * width + i];
        if (half) {
          x = rounded(x);
          uint32_t u;
          std::memcpy(&u, &x, 4);
          halves[r * step + i] = static_cast<uint16_t>(u >> 16);
        }
        floats[r * step + i] = x;
      }
    }
    const void* const data = half ? static_cast<const void*>(halves.data()) : floats.data();
    tokens = {data, half ? Element::bfloat16 : Element::float32, c.tokens * step, step};
  }
};

// Memory that is NaN at first, between two canaries.
struct Guarded {
  static constexpr int64_t MARGIN = 64;
  std::vector<float> memory;
  explicit Guarded(int64_t count) : memory(count + 2 * MARGIN, NAN) {
    std::fill_n(memory.begin(), MARGIN, 12345.0f);
    std::fill_n(memory.end() - MARGIN, MARGIN, 12345.0f);
  }
  float* data() { return memory.data() + MARGIN; }
  void check(const std::vector<double>& exact, double allowed, const std::string& what) {
    double worst = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      const double off = std::abs(data()[i] - exact[i]);
      worst = off <= worst ? worst : off;  // NaN is the worst
    }
    bool whole = true;
    for (int64_t i = 0; i < MARGIN; ++i) whole = whole && memory[i] == 12345.0f && memory[memory.size() - 1 - i] == 12345.0f;
    if ((!(worst <= allowed) || !whole) && ++failures <= 20) {
      std::printf("FAILED: %s: off by %g, %g allowed%s\n", what.c_str(), worst, allowed, whole ? "" : "; written outside");
    }
  }
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

std::unique_ptr<void, Free> aligned(int64_t bytes) {
  return std::unique_ptr<void, Free>(std::aligned_alloc(64, std::max<int64_t>(64, (bytes + 63) / 64 * 64)));
}

void in_any_order(int64_t tasks, const std::function<void(int64_t)>& run) {
  std::vector<int64_t> order(tasks);
  for (int64_t i = 0; i < tasks; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), generator);
  for (const int64_t task : order) run(task);
}

double phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

void check(const Case& c) {
  const int64_t rows = c.clusters * c.tokens, in = c.inputs, out = c.outputs, k = c.streams;
  std::vector<float> x = draw(rows * in), y0 = draw(rows * out), dy = draw(rows * out);
  const Stored input(x, c, in, c.bfloat16), residual(y0, c, out, false), grad(dy, c, out, c.bfloat16);
  const std::vector<float> weight = draw(k * out * in, 1 / std::sqrt(in)), bias = draw(k * out), scale = draw(k * in),
                           shift = draw(k * in);
  std::vector<double> y(rows * out), dx(rows * in), dw(k * out * in), db(k * out), dscale(k * in), dshift(k * in);
  const bool norm = c.before == Before::layer_norm;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = r % c.tokens, longer = c.tokens % k, length = c.tokens / k;
    const int64_t m = token < longer * (length + 1) ? token / (length + 1) : longer + (token - longer * (length + 1)) / length;
    std::vector<double> z(in), p(in), dp(in);
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < in; ++i) mean += x[r * in + i] / static_cast<double>(in);
    for (int64_t i = 0; i < in; ++i) variance += (x[r * in + i] - mean) * (x[r * in + i] - mean) / in;
    const double inverse = 1 / std::sqrt(variance + 1e-5);
    for (int64_t i = 0; i < in; ++i) {
      const double v = x[r * in + i];
      z[i] = (v - mean) * inverse;
      p[i] = norm ? z[i] * scale[m * in + i] + shift[m * in + i] : c.before == Before::gelu ? v * phi(v) : v;
    }
    for (int64_t o = 0; o < out; ++o) {
      const float* const w = weight.data() + (m * out + o) * in;
      double sum = bias[m * out + o] + (c.residual ? y0[r * out + o] : 0.0f);
      const double g = dy[r * out + o];
      for (int64_t i = 0; i < in; ++i) {
        sum += p[i] * w[i];
        dp[i] += g * w[i];
        dw[(m * out + o) * in + i] += g * p[i];
      }
      y[r * out + o] = sum;
      db[m * out + o] += g;
    }
    double all = 0, along = 0;
    for (int64_t i = 0; norm && i < in; ++i) {
      dscale[m * in + i] += dp[i] * z[i];
      dshift[m * in + i] += dp[i];
      all += dp[i] * scale[m * in + i] / in;
      along += dp[i] * scale[m * in + i] * z[i] / in;
    }
    for (int64_t i = 0; i < in; ++i) {
      const double v = x[r * in + i];
      const double slope = phi(v) + v * std::exp(-v * v / 2) / std::sqrt(2 * M_PI);
      dx[r * in + i] = norm                       ? (dp[i] * scale[m * in + i] - all - z[i] * along) * inverse
                       : c.before == Before::gelu ? dp[i] * slope
                                                  : dp[i];
    }
  }

  const LinearLoops& loops = linear_loops();
  std::vector<Parameters> parameters;
  for (int64_t m = 0; m < k; ++m) {
    parameters.push_back({weight.data() + m * out * in, bias.data() + m * out, scale.data() + m * in, shift.data() + m * in});
  }
  std::vector<float> moments(2 * rows, NAN);
  Job job{c.before, c.bfloat16, c.clusters,   c.tokens,          c.streams, in,
          out,      1e-5f,      input.tokens, parameters.data(), nullptr,   moments.data()};
  Guarded output(rows * out), grad_input(c.bfloat16 ? (rows * in + 1) / 2 : rows * in), grad_weight(k * out * in),
      grad_bias(k * out), grad_scale(k * in), grad_shift(k * in);
  const auto scratch = aligned(std::max(loops.scratch_bytes(job, false), loops.scratch_bytes(job, true)));
  const auto packed = aligned(std::max(loops.packed_bytes(job, false), loops.packed_bytes(job, true)));
  const auto kept = aligned(loops.kept_bytes(job));
  job.packed = packed.get();
  Forward forward{residual.tokens, output.data(), Element::float32};
  if (!c.residual) forward.residual.data = nullptr;
  in_any_order(loops.pack_tasks(job, false), [&](int64_t task) { loops.pack(job, false, task); });
  in_any_order(loops.row_tasks(job), [&](int64_t task) { loops.forward(job, forward, task, scratch.get()); });
  const Backward backward{grad.tokens,      grad_input.data(), kept.get(),       grad_weight.data(),
                          grad_bias.data(), grad_scale.data(), grad_shift.data()};
  in_any_order(loops.pack_tasks(job, true), [&](int64_t task) { loops.pack(job, true, task); });
  in_any_order(loops.row_tasks(job), [&](int64_t task) { loops.backward(job, backward, task, scratch.get()); });
  in_any_order(loops.weight_tasks(job), [&](int64_t task) { loops.weights(job, backward, task); });

  // Rounded operands are off by 2^-9 each; sums of so many products by its square root.
  const double unit = c.bfloat16 ? 0x1p-6 : 0x1p-19, sums = std::sqrt(static_cast<double>(rows) + 1);
  output.check(y, 2 * unit, name(c) + ": output");
  if (c.bfloat16) {
    Guarded widened(rows * in);
    const uint16_t* const halves = reinterpret_cast<const uint16_t*>(grad_input.data());
    for (int64_t i = 0; i < rows * in; ++i) {
      const uint32_t u = static_cast<uint32_t>(halves[i]) << 16;
      std::memcpy(widened.data() + i, &u, 4);
    }
    widened.check(dx, 16 * unit, name(c) + ": gradient of the input");
  }
  grad_input.check(c.bfloat16 ? std::vector<double>() : dx, 16 * unit, name(c) + ": gradient of the input");
  grad_weight.check(dw, 4 * unit * sums, name(c) + ": gradient of the weights");
  grad_bias.check(db, unit * sums, name(c) + ": gradient of the biases");
  if (!norm) return;
  grad_scale.check(dscale, 8 * unit * sums, name(c) + ": gradient of the norms' weights");
  grad_shift.check(dshift, 8 * unit * sums, name(c) + ": gradient of the norms' biases");
}

}  // namespace

int main() {
  try {
    std::printf("instruction set: %s\n", intraformer::name(instruction_set()));
  } catch (const std::invalid_argument& error) {
    std::printf("skipped: %s\n", error.what());
    return 77;
  }
  for (const Before before : {Before::nothing, Before::layer_norm, Before::gelu}) {
    for (const bool bfloat16 : {false, true}) {
      for (const bool residual : {false, true}) {
        check({3, 7, 2, 16, 48, before, bfloat16, residual});
        check({5, 2, 3, 48, 16, before, bfloat16, residual});
        check({9, 31, 3, 32, 128, before, bfloat16, residual});
      }
      check({2, 9, 1, 1056, 32, before, bfloat16, true});
      check({2, 9, 1, 32, 1056, before, bfloat16, true});
    }
  }
  if (failures > 0) {
    std::printf("%d failed\n", failures);
    return 1;
  }
  std::printf("all good\n");
  return 0;
}
