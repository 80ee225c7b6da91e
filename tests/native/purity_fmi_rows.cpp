// The vector loops of purity_fmi against plain loops in double: every element type, mask, stride and length around a vector and
// a chunk, with NaN in the padding, canaries round the outputs, and the rows shared out over threads in two ways.
// The instruction set is the one of INTRAFORMER_CPU_ISA; 77 is returned where it cannot be used.
#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/instruction_set.h"
#include "purity_fmi/cpu_rows.h"

using namespace intraformer;
using namespace intraformer::purity_fmi;

namespace {

int failures = 0;
int checks = 0;

void expect(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

size_t size_of(Element e) {
  switch (e) {
    case Element::float64:
    case Element::int64: return 8;
    case Element::float32: return 4;
    case Element::byte: return 1;
    default: return 2;
  }
}

// The 16-bit formats by their definition, one number at a time.
double decode16(uint16_t h, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (h >> mantissa_bits) & ((1 << exponent_bits) - 1), mantissa = h & ((1 << mantissa_bits) - 1);
  double value;
  if (exponent == (1 << exponent_bits) - 1) {
    value = mantissa ? std::nan("") : INFINITY;
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  } else {
    value = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  return h & 0x8000 ? -value : value;
}

uint16_t encode16(double x, int exponent_bits) {
  if (std::isnan(x)) return exponent_bits == 5 ? 0x7e00 : 0x7fc0;
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << (15 - exponent_bits));
  uint16_t low = 0, high = infinity;  // the magnitudes are ordered as their codes are
  while (high - low > 1) {
    const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
    (decode16(middle, exponent_bits) <= std::fabs(x) ? low : high) = middle;
  }
  const double below = decode16(low, exponent_bits);
  const double above = high == infinity ? 2 * below - decode16(low - 1, exponent_bits) : decode16(high, exponent_bits);
  const double middle = (below + above) / 2;
  const bool up = std::fabs(x) > middle || (std::fabs(x) == middle && (low & 1));
  return static_cast<uint16_t>(sign | (up ? high : low));
}

void put(void* data, int64_t index, Element e, double value) {
  char* to = static_cast<char*>(data) + index * static_cast<int64_t>(size_of(e));
  const auto copy = [&](auto v) { std::memcpy(to, &v, sizeof v); };
  switch (e) {
    case Element::float64: return copy(value);
    case Element::float32: return copy(static_cast<float>(value));
    case Element::float16: return copy(encode16(value, 5));
    case Element::bfloat16: return copy(encode16(value, 8));
    case Element::int64: return copy(static_cast<int64_t>(value));
    case Element::byte: return copy(static_cast<uint8_t>(value));
  }
}

double get(const void* data, int64_t index, Element e) {
  const char* from = static_cast<const char*>(data) + index * static_cast<int64_t>(size_of(e));
  const auto read = [&](auto v) {
    std::memcpy(&v, from, sizeof v);
    return v;
  };
  switch (e) {
    case Element::float64: return read(double{});
    case Element::float32: return read(float{});
    case Element::float16: return decode16(read(uint16_t{}), 5);
    case Element::bfloat16: return decode16(read(uint16_t{}), 8);
    case Element::int64: return static_cast<double>(read(int64_t{}));
    case Element::byte: return read(uint8_t{});
  }
  return 0;
}

struct Case {
  Element prediction, target;
  bool masked, from_logits, exact;
  int64_t rows, columns;
  bool transposed;
  std::string name() const {
    return "prediction " + std::to_string(int(prediction)) + " target " + std::to_string(int(target)) +
           (masked ? " masked" : "") + (from_logits ? " logits" : " probabilities") + (exact ? " exact" : " dice") + " [" +
           std::to_string(rows) + ", " + std::to_string(columns) + "]" + (transposed ? " transposed" : "");
  }
};

template <typename F>
void share_out(int64_t rows, int threads, F work) {
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([=] { work(rows * t / threads, rows * (t + 1) / threads); });
  }
  for (auto& thread : pool) thread.join();
}

constexpr unsigned char CANARY = 0xA5;

struct Guarded {
  std::vector<unsigned char> bytes;
  explicit Guarded(size_t size) : bytes(size + 128, CANARY) {}
  void* data() { return bytes.data() + 64; }
  bool intact() const {
    for (size_t i = 0; i < 64; ++i) {
      if (bytes[i] != CANARY || bytes[bytes.size() - 1 - i] != CANARY) return false;
    }
    return true;
  }
};

void run(const Case& c, std::mt19937& random) {
  const int64_t B = c.rows, n = c.columns, count = B * n;
  const int64_t row_stride = c.transposed ? 1 : n, column_stride = c.transposed ? B : 1;
  const auto at = [&](int64_t i, int64_t j) { return i * row_stride + j * column_stride; };
  std::vector<unsigned char> prediction(count * size_of(c.prediction)), target(count * size_of(c.target)), valid(count);
  std::normal_distribution<double> normal(0, 4);
  std::uniform_real_distribution<double> uniform(0, 1);
  const int64_t nan_row = B > 2 ? 1 : -1;
  for (int64_t i = 0; i < B; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const bool real = !c.masked || (i != 2 && uniform(random) < 0.7);
      double x = c.from_logits ? normal(random) : uniform(random);
      if (c.from_logits && uniform(random) < 0.02) x = uniform(random) < 0.5 ? -INFINITY : 200.0;
      if (!real || (i == nan_row && j == n / 2)) x = std::nan("");
      put(prediction.data(), at(i, j), c.prediction, x);
      // Padding may hold any target.
      put(target.data(), at(i, j), c.target, real ? double(uniform(random) < 0.4) : 7.0);
      valid[at(i, j)] = real ? 1 : 0;
    }
  }
  const Inputs in{
      {prediction.data(), row_stride, column_stride, c.prediction},
      {target.data(), row_stride, column_stride, c.target},
      {c.masked ? valid.data() : nullptr, row_stride, column_stride, Element::byte},
      n,
      c.from_logits,
      c.exact};
  const Element accumulator = c.prediction == Element::float64 ? Element::float64 : Element::float32;
  const size_t a = size_of(accumulator);
  std::vector<unsigned char> grads(2 * a);
  put(grads.data(), 0, accumulator, 0.75);
  put(grads.data(), 1, accumulator, -1.25);

  std::vector<unsigned char> before;
  for (const int threads : {1, 3}) {
    Guarded loss(B * a), purity(B * a), sums(3 * B * a), grad(count * size_of(c.prediction));
    const ForwardOutputs out{loss.data(), purity.data(), sums.data()};
    const Gradients gradients{grads.data(), 0, grads.data() + a, 0, sums.data(), grad.data()};
    bool good_targets = true;
    share_out(B, threads, [&](int64_t begin, int64_t end) {
      if (rows_loops().forward(in, out, begin, end) != NO_ROW) good_targets = false;
    });
    share_out(B, threads, [&](int64_t begin, int64_t end) { rows_loops().backward(in, gradients, begin, end); });
    expect(good_targets, c.name() + ": targets refused");
    expect(loss.intact() && purity.intact() && sums.intact() && grad.intact(), c.name() + ": wrote past its outputs");
    std::vector<unsigned char> all = loss.bytes;
    for (const Guarded* g : {&purity, &sums, &grad}) all.insert(all.end(), g->bytes.begin(), g->bytes.end());
    if (threads == 1) {
      before = all;
    } else {
      expect(before == all, c.name() + ": not the same bits on three threads");
    }
    if (threads != 1) continue;
    for (int64_t i = 0; i < B; ++i) {
      double tp = 0, p = 0, t = 0;
      const auto probability = [&](int64_t j) {
        const double x = get(prediction.data(), at(i, j), c.prediction);
        return c.from_logits ? 1 / (1 + std::exp(-x)) : x;
      };
      for (int64_t j = 0; j < n; ++j) {
        if (c.masked && !valid[at(i, j)]) continue;
        const double y = get(target.data(), at(i, j), c.target);
        tp += probability(j) * y;
        p += probability(j);
        t += y;
      }
      const double root = std::sqrt(p * t);
      const double wanted_purity = p != 0 ? tp / p : 0;
      double wanted_loss = p + t != 0 ? (p + t - 2 * tp) / (p + t) : 0;
      if (c.exact) wanted_loss = root != 0 ? 1 - tp / root : (p + t > 0);
      const double tolerance = c.prediction == Element::float64 ? 1e-12 : 3e-6;
      const auto near = [&](double found, double wanted, double scale) {
        return std::isnan(wanted) ? std::isnan(found) : std::fabs(found - wanted) <= tolerance * scale;
      };
      const std::string row = c.name() + " row " + std::to_string(i);
      expect(near(get(loss.data(), i, accumulator), wanted_loss, 1), row + ": loss");
      expect(near(get(purity.data(), i, accumulator), wanted_purity, 1), row + ": purity");
      double by_tp = 0, by_p = 0;
      if (c.exact && root != 0) by_tp = -0.75 / root, by_p = 0.75 * tp / (2 * p * root);
      if (!c.exact && p + t != 0) by_tp = -1.5 / (p + t), by_p = 1.5 * tp / ((p + t) * (p + t));
      if (p != 0) by_tp -= 1.25 / p, by_p += 1.25 * tp / (p * p);
      for (int64_t j = 0; j < n; ++j) {
        const double found = get(grad.data(), i * n + j, c.prediction);
        if (c.masked && !valid[at(i, j)]) {
          expect(found == 0, row + ": gradient of padding");
          continue;
        }
        const double y = get(target.data(), at(i, j), c.target), q = probability(j);
        const double wanted = (by_p + by_tp * y) * (c.from_logits ? q * (1 - q) : 1.0);
        const double scale = std::fabs(by_p) + std::fabs(by_tp);
        const double rounding = c.prediction == Element::bfloat16  ? std::fabs(wanted) / 256
                                : c.prediction == Element::float16 ? std::fabs(wanted) / 2048 + 6e-8
                                                                   : 0;
        expect(
            std::isnan(wanted) ? std::isnan(found) : std::fabs(found - wanted) <= tolerance * scale + rounding,
            row + ": gradient " + std::to_string(found) + ", expected " + std::to_string(wanted));
      }
    }
  }
}

void run_bad_targets() {
  for (const Element e :
       {Element::byte, Element::int64, Element::float32, Element::float16, Element::bfloat16, Element::float64}) {
    for (const int64_t n : {1, 5, 33, 1025}) {
      std::vector<float> x(3 * n), loss(3), purity(3), sums(9);
      std::vector<unsigned char> y(3 * n * size_of(e));
      for (int64_t k = 0; k < 3 * n; ++k) put(y.data(), k, e, double(k % 2));
      put(y.data(), 2 * n + n - 1, e, 2.0);  // the last of the last row
      const Inputs in{{x.data(), n, 1, Element::float32}, {y.data(), n, 1, e}, {nullptr, 0, 0, Element::byte}, n, true, false};
      const int64_t bad = rows_loops().forward(in, {loss.data(), purity.data(), sums.data()}, 0, 3);
      expect(bad == 2, "a target of 2 in row 2, type " + std::to_string(int(e)) + ", length " + std::to_string(n));
    }
  }
}

// Every float16 and bfloat16 there is, read and written back: as probabilities, q is the prediction and P its sum.
void run_every_half() {
  for (const Element e : {Element::float16, Element::bfloat16}) {
    const int bits = e == Element::float16 ? 5 : 8;
    std::vector<uint16_t> codes(65536);
    for (int k = 0; k < 65536; ++k) codes[k] = static_cast<uint16_t>(k);
    std::vector<uint8_t> y(65536, 0);
    std::vector<float> loss(65536), purity(65536), sums(3 * 65536), one(1, 1.0f);
    const Inputs in{{codes.data(), 1, 1, e}, {y.data(), 1, 1, Element::byte}, {nullptr, 0, 0, Element::byte}, 1, false, false};
    rows_loops().forward(in, {loss.data(), purity.data(), sums.data()}, 0, 65536);
    for (int k = 0; k < 65536; ++k) {
      const double wanted = decode16(static_cast<uint16_t>(k), bits);
      const float found = sums[3 * k + 1];
      expect(std::isnan(wanted) ? std::isnan(found) : found == static_cast<float>(wanted), "code " + std::to_string(k));
    }
    // Written: with TP = P = 0 and T = 1 (dice) the gradient is grad_loss * (-2 / T) y, here any number we like.
    std::mt19937 random(3);
    std::vector<float> wanted(65536);
    std::vector<uint16_t> written(65536);
    for (int k = 0; k < 65536; ++k) {
      const uint32_t pattern = random();
      std::memcpy(&wanted[k], &pattern, 4);
      if (k % 2) wanted[k] = static_cast<float>(std::ldexp(wanted[k] / 3.4e38, int(random() % 45) - 28));
      if (std::fabs(wanted[k]) > 1e38f || (wanted[k] != 0 && std::fabs(wanted[k]) < 1e-37f)) wanted[k] = 1.0f;
      sums[3 * k] = sums[3 * k + 1] = 0, sums[3 * k + 2] = 1, y[k] = 1, loss[k] = wanted[k] / -2, codes[k] = 0, purity[k] = 0;
    }
    rows_loops().backward(in, {loss.data(), 1, purity.data(), 1, sums.data(), written.data()}, 0, 65536);
    for (int k = 0; k < 65536; ++k) {
      const uint16_t expected = encode16(wanted[k], bits);
      // The sum that carries the number here loses the sign of 0.
      const double found = decode16(written[k], bits), meant = decode16(expected, bits);
      expect(
          found == meant || (std::isnan(found) && std::isnan(meant)),
          "rounding " + std::to_string(wanted[k]) + " to " + std::to_string(expected) + ", found " + std::to_string(written[k]));
    }
  }
}

// Rows from 2^31 on, in memory that is reserved and never touched but for them.
void run_far_rows() {
  constexpr int64_t first = int64_t{1} << 31, rows = first + 2, n = 3;
  const auto reserve = [](size_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  };
  const float x[n] = {0.5f, 1.0f, 0.25f};
  const uint8_t y[n] = {1, 0, 1};
  const Inputs in{{x, 0, 1, Element::float32}, {y, 0, 1, Element::byte}, {nullptr, 0, 0, Element::byte}, n, false, false};
  void* const loss = reserve(rows * 4);
  void* const purity = reserve(rows * 4);
  void* const sums = reserve(3 * rows * 4);
  void* const grad = reserve(n * rows * 4);
  if (loss == MAP_FAILED || purity == MAP_FAILED || sums == MAP_FAILED || grad == MAP_FAILED) {
    std::printf("rows from 2^31 on are not tested: this system reserves no such memory\n");
    return;
  }
  const float one = 1.0f, zero = 0.0f;
  rows_loops().forward(in, {loss, purity, sums}, first, rows);
  rows_loops().backward(in, {&one, 0, &zero, 0, sums, grad}, first, rows);
  for (int64_t i = first; i < rows; ++i) {
    expect(std::fabs(get(loss, i, Element::float32) - (1 - 1.5 / 3.75)) < 1e-6, "loss of row " + std::to_string(i));
    expect(get(sums, 3 * i + 2, Element::float32) == 2, "T of row " + std::to_string(i));
    expect(
        get(grad, n * i, Element::float32) < 0 && get(grad, n * i + 1, Element::float32) > 0,
        "gradient of row " + std::to_string(i));
  }
  munmap(loss, rows * 4), munmap(purity, rows * 4), munmap(sums, 3 * rows * 4), munmap(grad, n * rows * 4);
}

}  // namespace

int main() {
  try {
    std::printf("instruction set %s\n", name(instruction_set()));
  } catch (const std::invalid_argument& error) {
    std::printf("%s\n", error.what());
    return 77;
  }
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const Element predictions[] = {Element::float32, Element::bfloat16, Element::float16, Element::float64};
  const Element targets[] = {Element::byte,     Element::int64,   Element::float32,
                             Element::bfloat16, Element::float16, Element::float64};
  for (const Element prediction : predictions) {
    for (const Element target : targets) {
      for (int options = 0; options < 16; ++options) {
        for (const int64_t columns : {0, 1, 7, 16, 37, 1024, 1061}) {
          if (columns > 1000 && options % 5) continue;
          run({prediction, target, bool(options & 1), bool(options & 2), bool(options & 4), columns > 1000 ? 3 : 5, columns,
               bool(options & 8)},
              random);
        }
      }
    }
  }
  run_bad_targets();
  run_every_half();
  run_far_rows();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
