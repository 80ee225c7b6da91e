// One head of one sub-cluster is a task: its tokens are packed once, and scores never leave the core's caches.
#include "block_attention/cpu_heads.h"

#include "cpu/attention.h"
#include "cpu/operands.h"

namespace intraformer::block_attention {
namespace {

struct Scratch {
  int64_t* numbers;    // [tokens of a block], of their rows; negative at padding
  int64_t* own;        // the same, of their rows in what has one for each token
  uint32_t* keep;      // [round_up(tokens, LANES)]
  uint32_t* queries;   // rows of A
  uint32_t* keys;      // panels, as Context wants them
  uint32_t* values;    //
  uint32_t* values_t;  // from here on for the gradients
  uint32_t* keys_t;
  uint32_t* grads;            // rows of A
  uint32_t* query_panels;     // of up to BLOCK_ROWS queries
  uint32_t* gradient_panels;  //
  float* key_sums;            // [tokens][round_up(width, PANEL)]
  float* value_sums;          //
  AttentionScratch attention;
  GradientScratch gradients;
};

template <Precision P>
INTRAFORMER_INLINE Scratch take_scratch(Pieces& pieces, const Job& job, bool backward) {
  const int64_t longest = (job.tokens + job.blocks - 1) / job.blocks, width = job.width, rows = least(longest, BLOCK_ROWS);
  Scratch s{};
  s.numbers = Pieces::next<int64_t>(pieces, longest);
  s.own = Pieces::next<int64_t>(pieces, longest);
  s.keep = Pieces::next<uint32_t>(pieces, round_up(longest, LANES));
  s.queries = Pieces::next<uint32_t>(pieces, longest * row_words<P>(width));
  s.keys = Pieces::next<uint32_t>(pieces, key_words<P>(longest, width));
  if (!backward) {
    s.values = Pieces::next<uint32_t>(pieces, value_words<P>(longest, width));
    s.attention = take_attention<P>(pieces, longest);
    return s;
  }
  s.values_t = Pieces::next<uint32_t>(pieces, key_words<P>(longest, width));
  s.keys_t = Pieces::next<uint32_t>(pieces, value_words<P>(longest, width));
  s.grads = Pieces::next<uint32_t>(pieces, longest * row_words<P>(width));
  s.query_panels = Pieces::next<uint32_t>(pieces, value_words<P>(rows, width));
  s.gradient_panels = Pieces::next<uint32_t>(pieces, value_words<P>(rows, width));
  s.key_sums = Pieces::next<float>(pieces, longest * round_up(width, PANEL));
  s.value_sums = Pieces::next<float>(pieces, longest * round_up(width, PANEL));
  s.gradients = take_gradients<P>(pieces, longest, longest);
  return s;
}

template <Precision P>
int64_t scratch_bytes(const Job& job, bool backward) {
  Pieces pieces{nullptr, 0};
  take_scratch<P>(pieces, job, backward);
  return pieces.used;
}

struct Block {
  int64_t cluster, head;
  int64_t first, length;  // tokens
};

INTRAFORMER_INLINE Block block_of(const Job& job, int64_t task) {
  const int64_t m = task / job.heads % job.blocks;
  const int64_t length = job.tokens / job.blocks, longer = job.tokens % job.blocks;  // numpy.array_split's rule
  return {task / job.heads / job.blocks, task % job.heads, m * length + least(m, longer), length + (m < longer)};
}

INTRAFORMER_INLINE void mark_rows(const Job& job, const Block& block, const Scratch& s) {
  const int64_t* const rows = job.rows == nullptr ? nullptr : job.rows + block.cluster * job.tokens;
  for (int64_t t = 0; t < block.length; ++t) {
    s.numbers[t] = rows == nullptr ? block.first + t : rows[block.first + t];
    s.own[t] = s.numbers[t] < 0 ? -1 : block.first + t;
    s.keep[t] = s.numbers[t] < 0 ? 0u : ~0u;
  }
  for (int64_t t = block.length; t < round_up(block.length, LANES); ++t) s.keep[t] = 0u;
}

INTRAFORMER_INLINE Strided rows_of(const Heads& heads, const Block& block, Element element) {
  const int64_t size = element == Element::float32 ? 4 : 2;
  const char* const data = static_cast<const char*>(heads.data);
  return {data + (block.cluster * heads.cluster + block.head * heads.head) * size, element, heads.row, heads.channel};
}

// As rows of A, where they stand if they can be used there.
template <Precision P>
INTRAFORMER_INLINE Left
take_rows(const Strided& rows, const int64_t* numbers, bool in_order, const Block& block, int64_t width, uint32_t* to) {
  if (in_order && are_operand<P>(rows)) return in_place(rows, block.first);
  pack_rows<P>(rows, numbers, block.length, width, to);
  return {to, row_words<P>(width)};
}

// A tile of a head of the tokens of a block, in a contiguous [clusters, tokens, heads, width]; zeros at padding.
INTRAFORMER_INLINE void store_tile(
    const Job& job,
    const Block& block,
    const Scratch& s,
    void* to,
    Element element,
    int64_t row,
    int64_t rows,
    int64_t column,
    const float* sums,
    int64_t sums_row) {
  with_kind(element, [&](auto kind) {
    for (int64_t t = row; t < row + rows; ++t) {
      const int64_t place = (block.cluster * job.tokens + block.first + t) * job.heads + block.head;
      char* const out = static_cast<char*>(to) + place * job.width * decltype(kind)::bytes;
      for (int64_t c = 0; c < PANEL && column + c < job.width; c += LANES) {
        const Floats x = load<Floats>(sums + (t - row) * sums_row + c);
        store_channels(kind, out, column + c, job.width, s.keep[t] ? x : Floats{});
      }
    }
  });
}

template <Precision P>
void forward(const Job& job, void* output, int64_t task, void* memory) {
  const Block block = block_of(job, task);
  if (block.length == 0) return;
  Pieces pieces{static_cast<char*>(memory), 0};
  const Scratch s = take_scratch<P>(pieces, job, false);
  mark_rows(job, block, s);
  const int64_t length = block.length, width = job.width;
  pack_transposed<P>(rows_of(job.key, block, job.element), s.numbers, length, width, s.keys);
  pack_panels<P>(rows_of(job.value, block, job.element), s.numbers, length, width, s.values);
  const Left queries = take_rows<P>(rows_of(job.query, block, job.element), s.numbers, job.in_order, block, width, s.queries);
  attend<P>(
      queries, length, {length, width, width, s.keep, s.keys, s.values, nullptr, nullptr}, job.scale, s.attention,
      [&](int64_t row, int64_t rows, int64_t column, const float* sums) {
        store_tile(job, block, s, output, job.element, row, rows, column, sums, PANEL);
      });
}

template <Precision P>
void backward(const Job& job, const Gradients& gradients, int64_t task, void* memory) {
  const Block block = block_of(job, task);
  if (block.length == 0) return;
  Pieces pieces{static_cast<char*>(memory), 0};
  const Scratch s = take_scratch<P>(pieces, job, true);
  mark_rows(job, block, s);
  const int64_t length = block.length, width = job.width, sums_row = round_up(width, PANEL);
  const Strided query = rows_of(job.query, block, job.element), key = rows_of(job.key, block, job.element);
  const Strided value = rows_of(job.value, block, job.element), grad = rows_of(gradients.grad, block, job.element);
  pack_transposed<P>(key, s.numbers, length, width, s.keys);
  pack_panels<P>(key, s.numbers, length, width, s.keys_t);
  pack_transposed<P>(value, s.numbers, length, width, s.values_t);
  const Context context{length, width, width, s.keep, s.keys, nullptr, s.values_t, s.keys_t};
  const Left queries = take_rows<P>(query, s.numbers, job.in_order, block, width, s.queries);
  const Left grads = take_rows<P>(grad, s.own, true, block, width, s.grads);
  for_each_block(length, [&](int64_t first, int64_t count) {
    pack_panels<P>(query, s.numbers + first, count, width, s.query_panels);
    pack_panels<P>(grad, s.own + first, count, width, s.gradient_panels);
    const Asking asking{
        count,
        {from_row<Order::rows>(queries, first), queries.step},
        {from_row<Order::rows>(grads, first), grads.step},
        s.query_panels,
        s.gradient_panels,
        s.numbers + first};
    const auto store_sums = [&](void* to, int64_t row, int64_t rows, int64_t column, const float* sums, int64_t step) {
      store_tile(job, block, s, to, gradients.element, row, rows, column, sums, step);
    };
    // Blocks of queries add up in their order.
    const auto add = [&](float* kept, void* to, int64_t row, int64_t rows, int64_t column, const float* sums) {
      if (count == length) return store_sums(to, row, rows, column, sums, PANEL);
      for_each_vector(row, rows, column, width, sums, [&](int64_t r, int64_t c, Floats x) {
        float* const at = kept + r * sums_row + c;
        store(at, first == 0 ? x : load<Floats>(at) + x);
      });
      if (first + count == length) store_sums(to, row, rows, column, kept + row * sums_row + column, sums_row);
    };
    attend_backward<P>(
        asking, context, job.scale, s.gradients,
        [&](int64_t row, int64_t rows, int64_t column, const float* sums) {
          store_sums(gradients.query, first + row, rows, column, sums, PANEL);
        },
        [&](int64_t row, int64_t rows, int64_t column, const float* sums) {
          add(s.key_sums, gradients.key, row, rows, column, sums);
        },
        [&](int64_t row, int64_t rows, int64_t column, const float* sums) {
          add(s.value_sums, gradients.value, row, rows, column, sums);
        });
  });
}

// ---- The table ----

int64_t scratch_bytes_of(const Job& job, bool backward) {
  return job.bfloat16 ? scratch_bytes<Precision::bfloat16>(job, backward) : scratch_bytes<Precision::float32>(job, backward);
}

void forward_of(const Job& job, void* output, int64_t task, void* scratch) {
  job.bfloat16 ? forward<Precision::bfloat16>(job, output, task, scratch)
               : forward<Precision::float32>(job, output, task, scratch);
}

void backward_of(const Job& job, const Gradients& gradients, int64_t task, void* scratch) {
  job.bfloat16 ? backward<Precision::bfloat16>(job, gradients, task, scratch)
               : backward<Precision::float32>(job, gradients, task, scratch);
}

}  // namespace

extern const HeadLoops INTRAFORMER_HEAD_LOOPS;
const HeadLoops INTRAFORMER_HEAD_LOOPS = {scratch_bytes_of, forward_of, backward_of};

}  // namespace intraformer::block_attention
