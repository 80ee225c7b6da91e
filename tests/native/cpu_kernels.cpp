// The micro-kernels of csrc/cpu against plain loops in double. Compiled for one instruction set; main() is in one_set.cpp.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/operands.h"
#include "cpu/quantized.h"
#include "cpu/rows.h"

namespace {

int failures = 0;

void expect(bool good, const std::string& what) {
  if (!good && ++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

std::mt19937 generator(20250607);

float normal() { return std::normal_distribution<float>()(generator); }

constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();

// Rounded as an operand is.
template <Precision P>
float operand(float x) {
  if (P == Precision::float32) return x;
  const uint32_t bits = uint32_t{bfloat16_of(x)} << 16;
  float rounded;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}

template <Precision P>
void test_product(int64_t rows, int64_t k, int64_t columns) {
  const std::string name = std::string(P == Precision::float32 ? "float32" : "bfloat16") + " [" + std::to_string(rows) + ", " +
                           std::to_string(k) + "] x [" + std::to_string(k) + ", " + std::to_string(columns) + "]";
  const int64_t steps = words_of<P>(k), row = row_words<P>(k);
  std::vector<float> a(rows * k), b(k * columns);
  for (float& x : a) x = operand<P>(normal());
  for (float& x : b) x = operand<P>(normal());
  // Past the last number of a row of A there may be anything but in the word that it shares.
  std::vector<uint32_t> a_words(rows * row, 0x7fc07fc0u), b_words(panels_of(columns) * steps * PANEL, 0);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < words_of<P>(k); ++j) a_words[i * row + j] = 0;
    for (int64_t j = 0; j < k; ++j) {
      const uint32_t word =
          P == Precision::bfloat16 ? uint32_t{bfloat16_of(a[i * k + j])} << 16 * (j % 2) : bits<uint32_t>(a[i * k + j]);
      a_words[i * row + j / PACK<P>] |= word;
    }
  }
  for (int64_t n = 0; n < columns; ++n) {
    for (int64_t j = k - 1; j >= 0; --j) put<P>(b_words.data(), steps, j, n, b[j * columns + n]);
  }
  // The same A transposed: the words of all rows at one place of K follow each other.
  std::vector<uint32_t> transposed(words_of<P>(k) * (rows + 3), 0x7fc07fc0u);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < words_of<P>(k); ++j) transposed[j * (rows + 3) + i] = a_words[i * row + j];
  }
  const int64_t wide = panels_of(columns) * PANEL;
  std::vector<float> together(rows * wide, NOT_A_NUMBER), alone(rows * wide, NOT_A_NUMBER), turned(rows * wide, NOT_A_NUMBER);
  const Right right{b_words.data(), steps * PANEL, steps, columns};
  const auto keep = [&](std::vector<float>& out, int64_t first) {
    return [&out, first, wide](int64_t r, int64_t n, int64_t c, const float* sums) {
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(out.data() + (first + r + i) * wide + c, sums + i * PANEL, PANEL * sizeof(float));
      }
    };
  };
  multiply<P>({a_words.data(), row}, rows, right, keep(together, 0));
  for (int64_t i = 0; i < rows; ++i) multiply<P>({a_words.data() + i * row, row}, 1, right, keep(alone, i));
  multiply<P, Order::columns>({transposed.data(), rows + 3}, rows, right, keep(turned, 0));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t n = 0; n < columns; ++n) {
      double sum = 0, terms = 0;
      for (int64_t j = 0; j < k; ++j) {
        const double term = double{a[i * k + j]} * b[j * columns + n];
        sum += term, terms += std::fabs(term);
      }
      const float found = together[i * wide + n];
      expect(std::fabs(found - sum) <= 6e-8 * (4 + std::sqrt(double(k))) * terms, name + ": " + std::to_string(found - sum));
      expect(std::memcmp(&found, &alone[i * wide + n], sizeof found) == 0, name + ": not the same bits in another tile");
      expect(std::memcmp(&found, &turned[i * wide + n], sizeof found) == 0, name + ": not the same bits from A transposed");
    }
  }
}

// Sums of int8 products are those of integers, at the ends of both ranges too.
void test_integer_product(int64_t rows, int64_t k, int64_t columns) {
  constexpr Precision P = Precision::int8;
  const std::string name = "int8 [" + std::to_string(rows) + ", " + std::to_string(k) + "] x " + std::to_string(columns);
  const int64_t steps = words_of<P>(k), row = row_words<P>(k);
  std::vector<uint8_t> a(rows * k);
  std::vector<int8_t> b(k * columns);
  for (uint8_t& x : a) x = generator() % 4 ? generator() : 255;
  for (int8_t& x : b) x = generator() % 4 ? generator() : -128;
  std::vector<uint32_t> a_words(rows * row, 0), b_words(panels_of(columns) * steps * PANEL, 0);
  for (int64_t i = 0; i < rows; ++i) std::memcpy(a_words.data() + i * row, a.data() + i * k, k);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t n = 0; n < columns; ++n) put<P>(b_words.data(), steps, j, n, b[j * columns + n]);
  }
  const Right right{b_words.data(), steps * PANEL, steps, columns};
  multiply<P>({a_words.data(), row}, rows, right, [&](int64_t first, int64_t count, int64_t column, const int32_t* sums) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t n = column; n < columns && n < column + PANEL; ++n) {
        int64_t sum = 0;
        for (int64_t j = 0; j < k; ++j) sum += int64_t{a[(first + i) * k + j]} * b[j * columns + n];
        expect(sums[i * PANEL + n - column] == sum, name + ": " + std::to_string(sums[i * PANEL + n - column] - sum));
      }
    }
  });
}

void test_quantized() {
  const int64_t k = 48, columns = 32, group = 32, rows = 5;
  std::vector<float> x(rows * k), w(columns * k);
  for (float& v : x) v = normal();
  for (float& v : w) v = normal();
  for (int64_t j = 0; j < k; ++j) x[j] = 0, x[k + j] *= 1e-38f, x[2 * k + j] *= 1e30f;
  x[3 * k + 7] = NOT_A_NUMBER, x[4 * k + 9] = -std::numeric_limits<float>::infinity();
  std::vector<uint32_t> panels(panels_of(columns) * words_of<Precision::int8>(k) * PANEL);
  std::vector<float> scales(columns);
  std::vector<int32_t> offsets(2 * columns);
  w[3 * k + 1] = NOT_A_NUMBER, w[4 * k + 2] = std::numeric_limits<float>::infinity();
  quantize_panels(w.data(), 1, k, k, columns, group, panels.data(), {scales.data(), offsets.data()});
  const auto at = [&](int64_t j, int64_t n) {
    const uint32_t word = panels[((n / PANEL) * words_of<Precision::int8>(k) + j / 4) * PANEL + n % PANEL];
    return static_cast<int8_t>(word >> 8 * (j % 4));
  };
  for (int64_t n = 0; n < columns; ++n) {
    if (n == 3 || n == 4) {
      expect(std::isnan(scales[n]), "the scale of a column that is not finite");
      continue;
    }
    float largest = 0;
    for (int64_t j = 0; j < k; ++j) largest = std::fmax(largest, std::fabs(w[n * k + j]));
    expect(std::fabs(scales[n] * 127 - largest) <= 1e-6f * largest, "the scale of a column");
    int32_t sums[2] = {};
    for (int64_t j = 0; j < k; ++j) {
      sums[j / group] += at(j, n);
      expect(std::fabs(at(j, n) * scales[n] - w[n * k + j]) <= 0.5001f * scales[n], "a number of a column");
    }
    expect(offsets[n] == 128 * sums[0] && offsets[columns + n] == 128 * sums[1], "the offset of a column");
  }
  std::vector<uint32_t> words(row_words<Precision::int8>(k));
  for (int64_t r = 0; r < rows; ++r) {
    const float scale = quantize(x.data() + r * k, k, words.data());
    expect(std::isnan(scale) == (r > 2), "the scale of a row");
    for (int64_t j = 0; j < k && r < 3; ++j) {
      const int q = reinterpret_cast<const uint8_t*>(words.data())[j] - 128;
      if (r < 2) expect(q == 0, "a number of a row of zeros, or nearly");
      if (r == 2) expect(std::fabs(q * scale - x[r * k + j]) <= 0.5001f * scale, "a number of a row");
    }
  }
}

// put_row and put_panel_row lay numbers where put() does.
template <Precision P>
void test_layout() {
  const int64_t k = 3 * 16, columns = PANEL + LANES, steps = words_of<P>(k);
  std::vector<uint32_t> one_by_one(2 * steps * PANEL, 0), by_rows(2 * steps * PANEL, 0x7fc07fc0u);
  std::vector<uint32_t> row(steps), column(steps);
  std::vector<float> numbers(columns);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t n = 0; n < columns; ++n) put<P>(one_by_one.data(), steps, j, n, numbers[n] = normal());
    for (int64_t n = 0; n < columns; n += LANES) {
      put_panel_row<P>(by_rows.data(), steps, j, n, load<Floats>(numbers.data() + n));
    }
  }
  for (int64_t j = 0; j < steps * PANEL; ++j) expect(one_by_one[j] == by_rows[j], "put_panel_row");
  for (int64_t j = 0; j < steps; ++j) {
    for (int64_t c = 0; c < LANES; ++c) {
      const int64_t at = (steps + j) * PANEL + c;
      expect(one_by_one[at] == by_rows[at], "put_panel_row, second panel");
    }
  }
  std::vector<float> line(k);
  std::vector<uint32_t> panel(steps * PANEL, 0);
  for (int64_t j = 0; j < k; ++j) put<P>(panel.data(), steps, j, 0, line[j] = normal());
  for (int64_t j = 0; j < k; j += LANES) put_row<P>(row.data(), j, load<Floats>(line.data() + j));
  for (int64_t j = 0; j < steps; ++j) expect(row[j] == panel[j * PANEL], "put_row");
}

void test_gelu() {
  const auto of = [](float x) { return gelu(constant(x))[0]; };
  double worst = 0;
  for (float x = -20; x < 20; x += 1e-4f) {
    const double wanted = 0.5 * x * std::erfc(-double{x} / std::sqrt(2.0));
    worst = std::fmax(worst, std::fabs(of(x) - wanted) / std::fmax(std::fabs(double{x}), 1e-3));
  }
  expect(worst < 3e-7, "gelu: error " + std::to_string(worst * 1e7) + "e-7 |x|");
  expect(std::isnan(of(NOT_A_NUMBER)), "gelu of NaN");
  for (const float large : {6.0f, 1e10f, 3e38f, INFINITY})
    expect(of(large) == large && of(-large) == 0, "gelu of a large number");
  expect(of(0.0f) == 0 && of(1e-40f) >= 0, "gelu near 0");
}

void test_layer_norm(int64_t width, float shift) {
  std::vector<float> x(width), weight(width), bias(width), found(width, NOT_A_NUMBER);
  for (int64_t j = 0; j < width; ++j) x[j] = normal() + shift, weight[j] = normal(), bias[j] = normal();
  layer_norm(x.data(), width, weight.data(), bias.data(), 1e-5f, [&](int64_t j, Floats v) { store(found.data() + j, v); });
  double mean = 0, variance = 0;
  for (const float v : x) mean += v / double(width);
  for (const float v : x) variance += (v - mean) * (v - mean) / double(width);
  for (int64_t j = 0; j < width; ++j) {
    const double wanted = (x[j] - mean) / std::sqrt(variance + 1e-5) * weight[j] + bias[j];
    expect(std::fabs(found[j] - wanted) <= 2e-6 * (1 + std::fabs(shift)), "layer_norm of " + std::to_string(width));
  }
}

void test_softmax(int64_t rows, int64_t columns, double keep_rate, float scale) {
  const int64_t wide = round_up(columns, LANES), row = wide + 3;
  std::vector<float> x(rows * row, NOT_A_NUMBER), found(rows * row, NOT_A_NUMBER);
  std::vector<uint32_t> keep(wide, 0);
  for (int64_t j = 0; j < columns; ++j) {
    keep[j] = std::uniform_real_distribution<>()(generator) < keep_rate ? ~0u : 0u;
    for (int64_t r = 0; r < rows && keep[j]; ++r) x[r * row + j] = 10 * normal();
  }
  const std::vector<float> scores = x;
  softmax(rows, x.data(), row, wide, scale, keep.data(), [&](int64_t r, int64_t j, Floats v) {
    store(found.data() + r * row + j, v);
  });
  for (int64_t r = 0; r < rows; ++r) {
    double greatest = -INFINITY, sum = 0;
    const float* const s = scores.data() + r * row;
    for (int64_t j = 0; j < wide; ++j) greatest = keep[j] ? std::fmax(greatest, double{scale} * s[j]) : greatest;
    for (int64_t j = 0; j < wide; ++j) sum += keep[j] ? std::exp(double{scale} * s[j] - greatest) : 0;
    for (int64_t j = 0; j < wide; ++j) {
      const double wanted = keep[j] ? std::exp(double{scale} * s[j] - greatest) / sum : 0;
      const float p = found[r * row + j];
      expect(std::fabs(p - wanted) <= 1e-5 * wanted + 1e-37, "softmax of " + std::to_string(columns));
      expect(keep[j] || p == 0, "softmax: a column that is not kept");
    }
  }
}

void test_softmax_of_nan() {
  std::vector<float> x(2 * PANEL, 1.0f), found(2 * PANEL, 0.0f);
  const std::vector<uint32_t> keep(PANEL, ~0u);
  x[PANEL / 2] = NOT_A_NUMBER;
  softmax(2, x.data(), PANEL, PANEL, 1.0f, keep.data(), [&](int64_t r, int64_t j, Floats v) {
    store(found.data() + r * PANEL + j, v);
  });
  for (int64_t j = 0; j < PANEL; ++j) {
    expect(std::isnan(found[j]) && found[PANEL + j] == 1.0f / PANEL, "softmax of a row with NaN, and of its neighbour");
  }
}

void test_softmax_backward(int64_t rows, int64_t columns) {
  const int64_t wide = round_up(columns, LANES);
  std::vector<float> p(rows * wide, 0.0f), g(rows * wide, 0.0f);
  for (float& v : p) v = std::fabs(normal()) / float(columns);
  for (float& v : g) v = normal();
  std::vector<float> found = g;
  softmax_backward(rows, p.data(), found.data(), wide, wide, 0.5f);
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t j = 0; j < wide; ++j) sum += double{p[r * wide + j]} * g[r * wide + j];
    for (int64_t j = 0; j < wide; ++j) {
      const double wanted = 0.5 * p[r * wide + j] * (g[r * wide + j] - sum);
      expect(std::fabs(found[r * wide + j] - wanted) <= 1e-6, "softmax_backward of " + std::to_string(columns));
    }
  }
}

// The three packings of rows that lie anywhere, in any element, with padding among them, against put().
template <Precision P, Element E>
void test_packing(int64_t count, int64_t width, int64_t channel) {
  constexpr int64_t size = Kind<E>::bytes;
  const int64_t row = width * channel + 5;
  std::vector<char> memory((count * row + 1) * size);
  std::vector<float> numbers(count * width);
  std::vector<int64_t> names(count);
  for (int64_t t = 0; t < count; ++t) names[t] = t % 5 == 3 ? -7 : count - 1 - t;
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t c = 0; c < width; ++c) {
      const float x = normal();
      alignas(64) char piece[64];
      store_channels(Kind<E>{}, piece, 0, 1, constant(x));
      std::memcpy(memory.data() + (t * row + c * channel) * size, piece, size);
      const Strided one{piece, E, 0, 0};
      numbers[t * width + c] = channels(Kind<E>{}, one, 0, 0, LANES)[0];
    }
  }
  const Strided rows{memory.data(), E, row, channel};
  const auto number = [&](int64_t t, int64_t c) { return names[t] < 0 ? 0.0f : numbers[names[t] * width + c]; };
  const int64_t along_rows = words_of<P>(width), along_tokens = words_of<P>(count);
  std::vector<uint32_t> wanted(panels_of(count) * along_rows * PANEL, 0), found = wanted;
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t c = 0; c < width; ++c) put<P>(wanted.data(), along_rows, c, t, number(t, c));
  }
  pack_transposed<P>(rows, names.data(), count, width, found.data());
  expect(found == wanted, "pack_transposed");
  wanted.assign(panels_of(width) * along_tokens * PANEL, 0), found = wanted;
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t c = 0; c < width; ++c) put<P>(wanted.data(), along_tokens, t, c, number(t, c));
  }
  pack_panels<P>(rows, names.data(), count, width, found.data());
  expect(found == wanted, "pack_panels");
  found.assign(count * row_words<P>(width), 0x7fc07fc0u);
  pack_rows<P>(rows, names.data(), count, width, found.data());
  for (int64_t t = 0; t < count; ++t) {
    std::vector<uint32_t> line(along_rows * PANEL, 0);
    for (int64_t c = 0; c < width; ++c) put<P>(line.data(), along_rows, c, 0, number(t, c));
    for (int64_t w = 0; w < along_rows; ++w) expect(found[t * row_words<P>(width) + w] == line[w * PANEL], "pack_rows");
  }
}

template <Precision P>
void test_packings() {
  for (const int64_t count : {1, 16, 37}) {
    for (const int64_t width : {1, 24, 64}) {
      for (const int64_t channel : {1, 3}) {
        test_packing<P, Element::float32>(count, width, channel);
        test_packing<P, Element::bfloat16>(count, width, channel);
        test_packing<P, Element::float16>(count, width, channel);
      }
    }
  }
}

}  // namespace

int test_one_set() {
  for (const int64_t rows : {1, 5, 6, 7, 13, 14, 15, 29, 64}) {
    for (const int64_t k : {1, 2, 31, 128, 129, 513}) {
      for (const int64_t columns : {1, 16, 48, 65}) {
        test_product<Precision::float32>(rows, k, columns);
        test_product<Precision::bfloat16>(rows, k, columns);
        test_integer_product(rows, k, columns);
      }
    }
  }
  test_product<Precision::bfloat16>(3, 2 * RUN<Precision::bfloat16> + 5, 40);
  test_layout<Precision::float32>();
  test_layout<Precision::bfloat16>();
  test_quantized();
  test_gelu();
  for (const int64_t width : {16, 48, 512}) {
    for (const float shift : {0.0f, 30.0f}) test_layer_norm(width, shift);
  }
  for (const int64_t columns : {1, 15, 16, 33, 256}) {
    for (const int64_t rows : {1, 7}) {
      for (const double rate : {0.0, 0.5, 1.0}) test_softmax(rows, columns, rate, columns % 2 ? 1.0f : 0.125f);
      test_softmax_backward(rows, columns);
    }
  }
  test_softmax_of_nan();
  test_packings<Precision::float32>();
  test_packings<Precision::bfloat16>();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
