// One pass over each row, in chunks that stay in the first-level cache: a chunk with a stride or an unusual target is first
// copied to a buffer, and the vector loops see unit strides and byte targets only. The chunks are the same whatever the
// strides, and a row belongs to one thread, so neither strides nor threads change a bit of the result.
#include "purity_fmi/cpu_rows.h"

#include "cpu/vector.h"
#include "purity_fmi/op.h"

namespace intraformer::purity_fmi {
namespace {

constexpr int64_t CHUNK = 1024;
constexpr uint8_t NOT_A_TARGET = 2;

template <Element E>
struct Storage {
  using type = uint16_t;
  using accumulator = float;
};
template <>
struct Storage<Element::float32> {
  using type = float;
  using accumulator = float;
};
template <>
struct Storage<Element::float64> {
  using type = double;
  using accumulator = double;
};

template <Element E>
INTRAFORMER_INLINE Floats load_floats(const void* from) {
  if constexpr (E == Element::float32) return load<Floats>(from);
  if constexpr (E == Element::bfloat16) return from_bfloat16(load<Halves>(from));
  if constexpr (E == Element::float16) return from_float16(load<Halves>(from));
}

template <Element E>
INTRAFORMER_INLINE void store_floats(void* to, Floats x) {
  if constexpr (E == Element::float32) store(to, x);
  if constexpr (E == Element::bfloat16) store(to, to_bfloat16(x));
  if constexpr (E == Element::float16) store(to, to_float16(x));
}

INTRAFORMER_INLINE Words load_bytes(const uint8_t* from) { return widen(load<Bytes>(from)); }
INTRAFORMER_INLINE Words where_one(Words y) { return -y; }  // all ones where y is 1, none where it is 0

// exp(-|z|): see probability_from_logit in op.h. The loops below are bound by the number of their instructions, so each takes
// from it the one of the probability and its derivative that it needs.
INTRAFORMER_INLINE Floats decay_of_logits(Floats z) { return exp_of_nonpositive(bits<Floats>(bits<Words>(z) | 0x80000000u)); }

INTRAFORMER_INLINE Floats probability_of_logits(Floats z) {
  const Floats decay = decay_of_logits(z);
  return (z < 0.0f ? decay : constant(1.0f)) / (1.0f + decay);
}

INTRAFORMER_INLINE Floats derivative_of_logits(Floats z) {
  const Floats decay = decay_of_logits(z);
  const Floats sum = 1.0f + decay;
  return decay / (sum * sum);
}

template <bool Masked>
INTRAFORMER_INLINE Words kept(const uint8_t* valid) {
  if constexpr (Masked) return mask(load_bytes(valid) != 0u);
  return ~Words{};
}

// Lanes that are not kept hold anything on the way in and 0 on the way out.

struct Sums {
  Floats true_positive{}, predicted{};
  Words actual{}, seen{};  // seen: every bit that any target had

  template <bool Logits>
  INTRAFORMER_INLINE void add(Sums& s, Floats x, Words y, Words keep) {
    if constexpr (Logits) x = probability_of_logits(x);
    y &= keep;
    s.true_positive = y != 0u ? s.true_positive + x : s.true_positive;
    s.predicted += bits<Floats>(bits<Words>(x) & keep);
    s.actual += y;
    s.seen |= y;
  }
};

template <bool Logits>
INTRAFORMER_INLINE Floats gradient(Floats x, Words y, Words keep, Coefficients<float> c) {
  Floats g = choose(where_one(y), constant(c.constant + c.slope), constant(c.constant));
  if constexpr (Logits) g = g * derivative_of_logits(x);
  return bits<Floats>(bits<Words>(g) & keep);
}

// What is left of a chunk that is not a whole vector, in buffers of one vector's length.
template <typename S>
struct Tail {
  alignas(64) S x[LANES] = {};
  alignas(64) uint8_t y[LANES] = {};
  alignas(64) uint8_t valid[LANES] = {};

  INTRAFORMER_INLINE void fill(Tail& t, const S* x, const uint8_t* y, const uint8_t* valid, int64_t n) {
    for (int64_t j = 0; j < n; ++j) {
      t.x[j] = x[j];
      t.y[j] = y[j];
      t.valid[j] = valid == nullptr || valid[j] != 0;
    }
  }
};

template <Element E, bool Logits, bool Masked, typename S>
INTRAFORMER_INLINE bool add_chunk(const S* x, const uint8_t* y, const uint8_t* valid, int64_t n, RowSums<float>& row) {
  Sums sums;
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) {
    Sums::add<Logits>(sums, load_floats<E>(x + j), load_bytes(y + j), kept<Masked>(Masked ? valid + j : nullptr));
  }
  if (j < n) {
    Tail<S> t;
    Tail<S>::fill(t, x + j, y + j, Masked ? valid + j : nullptr, n - j);
    Sums::add<Logits>(sums, load_floats<E>(t.x), load_bytes(t.y), kept<true>(t.valid));
  }
  row.true_positive += sum_of_lanes<float, LANES>(sums.true_positive);
  row.predicted += sum_of_lanes<float, LANES>(sums.predicted);
  row.actual += static_cast<float>(sum_of_lanes<uint32_t, LANES>(sums.actual));
  return sum_of_lanes<uint32_t, LANES>(sums.seen >> 1) == 0;  // bytes: the sum cannot wrap
}

template <Element E, bool Logits, bool Masked, typename S>
INTRAFORMER_INLINE void write_chunk(
    const S* x, const uint8_t* y, const uint8_t* valid, int64_t n, Coefficients<float> c, S* out) {
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) {
    const Words keep = kept<Masked>(Masked ? valid + j : nullptr);
    store_floats<E>(out + j, gradient<Logits>(load_floats<E>(x + j), load_bytes(y + j), keep, c));
  }
  if (j < n) {
    Tail<S> t;
    Tail<S>::fill(t, x + j, y + j, Masked ? valid + j : nullptr, n - j);
    store_floats<E>(t.x, gradient<Logits>(load_floats<E>(t.x), load_bytes(t.y), kept<true>(t.valid), c));
    for (int64_t i = 0; j + i < n; ++i) out[j + i] = t.x[i];
  }
}

// float64 is there to check gradients with: one element at a time.

template <bool Logits>
INTRAFORMER_INLINE Probability<double> probability(double x) {
  if constexpr (Logits) return probability_from_logit(x);
  return {x, 1.0};
}

template <Element E, bool Logits, bool Masked>
INTRAFORMER_INLINE bool add_chunk(const double* x, const uint8_t* y, const uint8_t* valid, int64_t n, RowSums<double>& row) {
  bool targets_good = true;
  for (int64_t j = 0; j < n; ++j) {
    if (Masked && !valid[j]) continue;
    const double q = probability<Logits>(x[j]).value;
    row.true_positive += q * y[j];
    row.predicted += q;
    row.actual += y[j];
    targets_good &= y[j] <= 1;
  }
  return targets_good;
}

template <Element E, bool Logits, bool Masked>
INTRAFORMER_INLINE void write_chunk(
    const double* x, const uint8_t* y, const uint8_t* valid, int64_t n, Coefficients<double> c, double* out) {
  for (int64_t j = 0; j < n; ++j) {
    const bool keep = !Masked || valid[j];
    out[j] = keep ? (c.constant + c.slope * y[j]) * probability<Logits>(x[j]).derivative : 0.0;
  }
}

// Rows of the operands in unit stride, a chunk at a time.

template <typename T>
INTRAFORMER_INLINE const T* at(const Matrix& m, int64_t i, int64_t j) {
  return static_cast<const T*>(m.data) + i * m.row_stride + j * m.column_stride;
}

template <typename T>
INTRAFORMER_INLINE const T* unit_stride(const Matrix& m, int64_t i, int64_t j, int64_t n, T* buffer) {
  const T* from = at<T>(m, i, j);
  if (m.column_stride == 1) return from;
  for (int64_t k = 0; k < n; ++k) buffer[k] = from[k * m.column_stride];
  return buffer;
}

template <typename T>
INTRAFORMER_INLINE const uint8_t* coded(const Matrix& m, int64_t i, int64_t j, int64_t n, T zero, T one, uint8_t* buffer) {
  const T* from = at<T>(m, i, j);
  const auto code = [=](T value) -> uint8_t {
    if constexpr (sizeof(T) == 2) value = value == 0x8000u ? zero : value;  // -0.0
    return static_cast<uint8_t>(value == one ? 1 : value == zero ? 0 : NOT_A_TARGET);
  };
  if (m.column_stride == 1) {  // a loop of its own, which the compiler takes by vectors
    for (int64_t k = 0; k < n; ++k) buffer[k] = code(from[k]);
  } else {
    for (int64_t k = 0; k < n; ++k) buffer[k] = code(from[k * m.column_stride]);
  }
  return buffer;
}

const uint8_t* targets(const Matrix& m, int64_t i, int64_t j, int64_t n, uint8_t* buffer) {
  switch (m.element) {
    case Element::byte: return unit_stride(m, i, j, n, buffer);
    case Element::int64: return coded<int64_t>(m, i, j, n, 0, 1, buffer);
    case Element::float32: return coded<float>(m, i, j, n, 0.0f, 1.0f, buffer);
    case Element::float64: return coded<double>(m, i, j, n, 0.0, 1.0, buffer);
    case Element::bfloat16: return coded<uint16_t>(m, i, j, n, 0, 0x3f80, buffer);
    case Element::float16: return coded<uint16_t>(m, i, j, n, 0, 0x3c00, buffer);
  }
  return buffer;
}

template <Element E>
struct Buffers {
  typename Storage<E>::type prediction[CHUNK];
  uint8_t target[CHUNK];
  uint8_t valid[CHUNK];
};

INTRAFORMER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <Element E, bool Logits, bool Masked>
int64_t forward_rows(const Inputs& in, const ForwardOutputs& out, int64_t begin, int64_t end) {
  using A = typename Storage<E>::accumulator;
  Buffers<E> buffers;
  int64_t first_bad = NO_ROW;
  for (int64_t i = begin; i < end; ++i) {
    RowSums<A> sums{};
    bool targets_good = true;
    for (int64_t j = 0; j < in.columns; j += CHUNK) {
      const int64_t n = least(CHUNK, in.columns - j);
      const uint8_t* valid = Masked ? unit_stride(in.valid, i, j, n, buffers.valid) : nullptr;
      targets_good &= add_chunk<E, Logits, Masked>(
          unit_stride(in.prediction, i, j, n, buffers.prediction), targets(in.target, i, j, n, buffers.target), valid, n, sums);
    }
    if (!targets_good) first_bad = least(first_bad, i);
    static_cast<A*>(out.loss)[i] = row_loss(sums, in.exact);
    static_cast<A*>(out.purity)[i] = row_purity(sums);
    A* saved = static_cast<A*>(out.sums) + 3 * i;
    saved[0] = sums.true_positive;
    saved[1] = sums.predicted;
    saved[2] = sums.actual;
  }
  return first_bad;
}

template <Element E, bool Logits, bool Masked>
void backward_rows(const Inputs& in, const Gradients& grad, int64_t begin, int64_t end) {
  using A = typename Storage<E>::accumulator;
  using S = typename Storage<E>::type;
  Buffers<E> buffers;
  for (int64_t i = begin; i < end; ++i) {
    const A* saved = static_cast<const A*>(grad.sums) + 3 * i;
    const Coefficients<A> c = gradient_coefficients<A>(
        {saved[0], saved[1], saved[2]}, static_cast<const A*>(grad.loss)[i * grad.loss_stride],
        static_cast<const A*>(grad.purity)[i * grad.purity_stride], in.exact);
    S* out = static_cast<S*>(grad.prediction) + i * in.columns;
    for (int64_t j = 0; j < in.columns; j += CHUNK) {
      const int64_t n = least(CHUNK, in.columns - j);
      const uint8_t* valid = Masked ? unit_stride(in.valid, i, j, n, buffers.valid) : nullptr;
      write_chunk<E, Logits, Masked>(
          unit_stride(in.prediction, i, j, n, buffers.prediction), targets(in.target, i, j, n, buffers.target), valid, n, c,
          out + j);
    }
  }
}

template <Element E, typename F>
INTRAFORMER_INLINE auto with_options(const Inputs& in, F f) {
  const bool masked = in.valid.data != nullptr;
  if (in.from_logits) return masked ? f.template operator()<E, true, true>() : f.template operator()<E, true, false>();
  return masked ? f.template operator()<E, false, true>() : f.template operator()<E, false, false>();
}

template <typename F>
INTRAFORMER_INLINE auto with_element(const Inputs& in, F f) {
  switch (in.prediction.element) {
    case Element::bfloat16: return with_options<Element::bfloat16>(in, f);
    case Element::float16: return with_options<Element::float16>(in, f);
    case Element::float64: return with_options<Element::float64>(in, f);
    default: return with_options<Element::float32>(in, f);
  }
}

int64_t forward(const Inputs& in, const ForwardOutputs& out, int64_t begin, int64_t end) {
  return with_element(in, [&]<Element E, bool L, bool M>() { return forward_rows<E, L, M>(in, out, begin, end); });
}

void backward(const Inputs& in, const Gradients& grad, int64_t begin, int64_t end) {
  with_element(in, [&]<Element E, bool L, bool M>() { backward_rows<E, L, M>(in, grad, begin, end); });
}

}  // namespace

extern const RowLoops INTRAFORMER_ROW_LOOPS;
const RowLoops INTRAFORMER_ROW_LOOPS = {forward, backward};

}  // namespace intraformer::purity_fmi
