// A stream of a few clusters is a task: what they ask goes through the weights, which are read once for all of them, and meets each
// one's context, out of the core's caches.
#include "correlation_attention/cpu_streams.h"

#include "cpu/attention.h"
#include "cpu/operands.h"

namespace intraformer::correlation_attention {
namespace {

// Panels of columns that a task of the gradient of a weight brings together, lest the rows come by for each anew; and the rows, of as
// many clusters as it takes, that it sums up at a time, lest the sums come by for each few.
constexpr int64_t GROUP = 4;
constexpr int64_t CHUNK = 128;

// ---- Weights ----

template <Precision P>
INTRAFORMER_INLINE int64_t weight_words(const Job& job) {
  return value_words<P>(job.width, job.width);
}

template <Precision P>
INTRAFORMER_INLINE Right weight_of(const Job& job, const void* packed, int64_t stream) {
  const int64_t w = job.weights == 1 ? 0 : stream;
  return as_values<P>(static_cast<const uint32_t*>(packed) + w * weight_words<P>(job), job.width, job.width);
}

template <Precision P>
void pack(const Job& job, const Strided& weight, bool transposed, int64_t panel, void* packed) {
  const int64_t first = panel * PANEL, count = least(PANEL, job.width - first);
  uint32_t* const to = static_cast<uint32_t*>(packed) + first * words_of<P>(job.width);
  Strided part = weight;
  const int64_t size = weight.element == Element::float32 ? 4 : 2;
  part.data = static_cast<const char*>(weight.data) + first * (transposed ? weight.row : weight.channel) * size;
  if (transposed) {
    pack_transposed<P>(part, nullptr, count, job.width, to);
  } else {
    pack_panels<P>(part, nullptr, job.width, count, to);
  }
}

// ---- What is where ----

struct Stream {
  int64_t cluster, stream;
  int64_t first, length;  // of its tokens among the members
};

INTRAFORMER_INLINE Stream stream_of(const Job& job, int64_t stream, int64_t cluster) {
  const int64_t length = job.members / job.streams, longer = job.members % job.streams;  // numpy.array_split's rule
  return {cluster, stream, stream * length + least(stream, longer), length + (stream < longer)};
}

INTRAFORMER_INLINE Strided rows_from(const Tokens& tokens, int64_t cluster, int64_t first, Element element) {
  const int64_t size = element == Element::float32 ? 4 : 2;
  const char* const data = static_cast<const char*>(tokens.data);
  return {data + (cluster * tokens.cluster + first * tokens.row) * size, element, tokens.row, tokens.channel};
}

// The tokens that ask, from row `first` of theirs on.
INTRAFORMER_INLINE Strided asking_rows(const Job& job, const Stream& stream, int64_t first) {
  if (job.anchor_asks) return rows_from(job.anchor, stream.cluster, first, job.element);
  return rows_from(job.member, stream.cluster, stream.first + first, job.element);
}

INTRAFORMER_INLINE int64_t context_first(const Job& job, const Stream& stream) { return job.anchor_asks ? stream.first : 0; }

INTRAFORMER_INLINE int64_t context_length(const Job& job, const Stream& stream) {
  return job.anchor_asks ? stream.length : job.anchors;
}

INTRAFORMER_INLINE Strided context_rows(const Job& job, const Stream& stream) {
  return rows_from(job.anchor_asks ? job.member : job.anchor, stream.cluster, context_first(job, stream), job.element);
}

struct Scratch {
  int64_t* numbers;     // [context], of the rows that are looked at; negative at padding
  uint32_t* keep;       // [context]
  uint32_t* asking;     // [clusters][tokens] rows of A, of the tokens that ask; going forward only
  uint32_t* projected;  // the same, of those times the weight
  uint32_t* context_t;  // panels whose columns are the tokens of the context
  uint32_t* context;    // panels whose columns are the channels
  AttentionScratch attention;
  GradientScratch gradients;  // from here on for the gradients only
  uint32_t* grads;            // [rows] rows of A
  uint32_t* asked;            // as projected, the gradients of it
  uint32_t* projected_panels;
  uint32_t* gradient_panels;
  float* context_sums;  // [context][round_up(width, PANEL)]
};

template <Precision P>
INTRAFORMER_INLINE Scratch take_scratch(Pieces& pieces, const Job& job, bool backward) {
  const int64_t longest = (job.members + job.streams - 1) / job.streams, width = job.width;
  const int64_t context = job.anchor_asks ? longest : job.anchors, rows = least(longest, BLOCK_ROWS);
  const int64_t all = job.clusters_a_task * longest;
  Scratch s{};
  s.numbers = Pieces::next<int64_t>(pieces, context);
  s.keep = Pieces::next<uint32_t>(pieces, round_up(context, LANES));
  if (!backward) s.asking = Pieces::next<uint32_t>(pieces, all * row_words<P>(width));
  s.projected = Pieces::next<uint32_t>(pieces, all * row_words<P>(width));
  s.context_t = Pieces::next<uint32_t>(pieces, key_words<P>(context, width));
  s.context = Pieces::next<uint32_t>(pieces, value_words<P>(context, width));
  if (!backward) {
    s.attention = take_attention<P>(pieces, context);
    return s;
  }
  s.gradients = take_gradients<P>(pieces, rows, context);
  s.grads = Pieces::next<uint32_t>(pieces, rows * row_words<P>(width));
  s.asked = Pieces::next<uint32_t>(pieces, all * row_words<P>(width));
  s.projected_panels = Pieces::next<uint32_t>(pieces, value_words<P>(rows, width));
  s.gradient_panels = Pieces::next<uint32_t>(pieces, value_words<P>(rows, width));
  s.context_sums = Pieces::next<float>(pieces, context * round_up(width, PANEL));
  return s;
}

struct WeightScratch {
  uint32_t* rows;    // [words of CHUNK][score_row(width)], the transposed A
  uint32_t* panels;  // [GROUP] of CHUNK rows
  float* sums;       // [width][GROUP * PANEL]
};

template <Precision P>
INTRAFORMER_INLINE WeightScratch take_weight_scratch(Pieces& pieces, const Job& job) {
  WeightScratch s{};
  s.rows = Pieces::next<uint32_t>(pieces, words_of<P>(CHUNK) * score_row(job.width));
  s.panels = Pieces::next<uint32_t>(pieces, GROUP * words_of<P>(CHUNK) * PANEL);
  s.sums = Pieces::next<float>(pieces, job.width * GROUP * PANEL);
  return s;
}

template <Precision P>
int64_t scratch_bytes(const Job& job, bool backward) {
  Pieces pieces{nullptr, 0}, others{nullptr, 0};
  take_scratch<P>(pieces, job, backward);
  if (backward) take_weight_scratch<P>(others, job);
  return most(pieces.used, others.used);
}

INTRAFORMER_INLINE void mark_context(const Job& job, const Stream& stream, const Scratch& s) {
  const int64_t first = context_first(job, stream), length = context_length(job, stream);
  for (int64_t t = 0; t < length; ++t) {
    const bool keep = job.valid == nullptr || job.valid[stream.cluster * job.valid_cluster + (first + t) * job.valid_row] != 0;
    s.numbers[t] = keep ? t : -1;
    s.keep[t] = keep ? ~0u : 0u;
  }
  for (int64_t t = length; t < round_up(length, LANES); ++t) s.keep[t] = 0u;
}

// A tile of `width` columns into rows of a contiguous tensor, from its row `first` on; `keep`: 0 where a row is to be zeros.
INTRAFORMER_INLINE void store_tile(
    void* to,
    Element element,
    int64_t first,
    int64_t width,
    int64_t row,
    int64_t rows,
    int64_t column,
    const float* sums,
    int64_t sums_row,
    const uint32_t* keep) {
  with_kind(element, [&](auto kind) {
    for (int64_t r = 0; r < rows; ++r) {
      char* const out = static_cast<char*>(to) + (first + row + r) * width * decltype(kind)::bytes;
      const bool kept = keep == nullptr || keep[row + r] != 0;
      for (int64_t c = 0; c < PANEL && column + c < width; c += LANES) {
        const Floats x = load<Floats>(sums + r * sums_row + c);
        store_channels(kind, out, column + c, width, kept ? x : Floats{});
      }
    }
  });
}

// ---- The tasks ----

// Calls body(stream, place) for the clusters of a task; place is the first row of a cluster in what the task keeps of all.
template <typename Body>
INTRAFORMER_INLINE void for_each_cluster(const Job& job, int64_t task, Body body) {
  const int64_t first = task % groups(job) * job.clusters_a_task;
  for (int64_t i = 0; i < job.clusters_a_task && first + i < job.clusters; ++i) {
    const Stream stream = stream_of(job, task / groups(job), first + i);
    body(stream, i * stream.length);
  }
}

// The rows rows_of(stream, place) of each cluster of a task times a weight, a panel of which serves all of them before the next:
// a tile at a time to epilogue(stream, place, row, rows, column, sums).
template <Precision P, typename RowsOf, typename Epilogue>
INTRAFORMER_INLINE void multiply_all(const Job& job, int64_t task, const Right& weight, RowsOf rows_of, Epilogue epilogue) {
  for (int64_t c = 0; c < weight.columns; c += PANEL) {
    const Right panel{weight.words + c / PANEL * weight.panel, weight.panel, weight.steps, least(PANEL, weight.columns - c)};
    for_each_cluster(job, task, [&](const Stream& stream, int64_t place) {
      multiply<P>(rows_of(stream, place), stream.length, panel, [&](int64_t r0, int64_t n, int64_t, const float* sums) {
        epilogue(stream, place, r0, n, c, sums);
      });
    });
  }
}

// The first row of a stream of a cluster in a tensor of all members.
INTRAFORMER_INLINE int64_t member_row(const Job& job, const Stream& stream) {
  return stream.cluster * job.members + stream.first;
}

// What is asked, by the weight of the stream, into s.projected, and where it is kept.
template <Precision P>
void project(const Job& job, const void* packed, float* kept, int64_t task, const Scratch& s) {
  const int64_t width = job.width, row = row_words<P>(width);
  // Even where tokens could be used as they stand: at 2 KB from one to the next the rows of a tile would share a cache set.
  for_each_cluster(job, task, [&](const Stream& stream, int64_t place) {
    pack_rows<P>(asking_rows(job, stream, 0), nullptr, stream.length, width, s.asking + place * row);
  });
  multiply_all<P>(
      job, task, weight_of<P>(job, packed, task / groups(job)),
      [&](const Stream&, int64_t place) { return Left{s.asking + place * row, row}; },
      [&](const Stream& stream, int64_t place, int64_t r0, int64_t n, int64_t c0, const float* sums) {
        for_each_vector(
            r0, n, c0, width, sums, [&](int64_t r, int64_t c, Floats x) { put_row<P>(s.projected + (place + r) * row, c, x); });
        if (kept != nullptr) {
          store_tile(kept, Element::float32, member_row(job, stream), width, r0, n, c0, sums, PANEL, nullptr);
        }
      });
}

template <Precision P>
INTRAFORMER_INLINE void pack_context(const Job& job, const Stream& stream, const Scratch& s) {
  const int64_t length = context_length(job, stream);
  mark_context(job, stream, s);
  pack_transposed<P>(context_rows(job, stream), s.numbers, length, job.width, s.context_t);
  pack_panels<P>(context_rows(job, stream), s.numbers, length, job.width, s.context);
}

template <Precision P>
void forward(const Job& job, const void* packed, void* output, float* projected, int64_t task, void* memory) {
  Pieces pieces{static_cast<char*>(memory), 0};
  const Scratch s = take_scratch<P>(pieces, job, false);
  const int64_t width = job.width, row = row_words<P>(width);
  project<P>(job, packed, projected, task, s);
  for_each_cluster(job, task, [&](const Stream& stream, int64_t place) {
    const int64_t length = context_length(job, stream), out = member_row(job, stream);
    pack_context<P>(job, stream, s);
    attend<P>(
        {s.projected + place * row, row}, stream.length, {length, width, width, s.keep, s.context_t, s.context, nullptr, nullptr},
        1.0f, s.attention, [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
          store_tile(output, job.element, out, width, r0, n, c0, sums, PANEL, nullptr);
        });
  });
}

// The gradients of what is projected into gradients.asked and s.asked, those of the context to where they belong.
template <Precision P>
void backward_of_cluster(const Job& job, const Gradients& gradients, const Stream& stream, int64_t place, const Scratch& s) {
  const int64_t width = job.width, row = row_words<P>(width), sums_row = round_up(width, PANEL);
  const int64_t length = context_length(job, stream), member = member_row(job, stream);
  pack_context<P>(job, stream, s);
  // Keys and values are the same.
  const Context context{length, width, width, s.keep, s.context_t, s.context, s.context_t, s.context};
  for_each_block(stream.length, [&](int64_t first, int64_t count) {
    uint32_t* const projected = s.projected + (place + first) * row;
    uint32_t* const asked = s.asked + (place + first) * row;
    // Rows of A are rows of numbers.
    const Strided numbers{projected, P == Precision::float32 ? Element::float32 : Element::bfloat16, row * PACK<P>, 1};
    pack_panels<P>(numbers, nullptr, count, width, s.projected_panels);
    const Strided grad = rows_from(gradients.grad, stream.cluster, stream.first + first, job.element);
    pack_rows<P>(grad, nullptr, count, width, s.grads);
    pack_panels<P>(grad, nullptr, count, width, s.gradient_panels);
    const auto add = [&](bool start, int64_t r0, int64_t n, int64_t c0, const float* sums) {
      for_each_vector(r0, n, c0, width, sums, [&](int64_t r, int64_t c, Floats x) {
        float* const at = s.context_sums + r * sums_row + c;
        store(at, start ? x : load<Floats>(at) + x);
      });
    };
    attend_backward<P>(
        {count, {projected, row}, {s.grads, row}, s.projected_panels, s.gradient_panels, nullptr}, context, 1.0f, s.gradients,
        [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
          store_tile(gradients.asked, Element::float32, member + first, width, r0, n, c0, sums, PANEL, nullptr);
          for_each_vector(r0, n, c0, width, sums, [&](int64_t r, int64_t c, Floats x) { put_row<P>(asked + r * row, c, x); });
        },
        [&](int64_t r0, int64_t n, int64_t c0, const float* sums) { add(first == 0, r0, n, c0, sums); },
        [&](int64_t r0, int64_t n, int64_t c0, const float* sums) { add(false, r0, n, c0, sums); });
  });
  const int64_t part = (stream.cluster * job.streams + stream.stream) * job.anchors;
  for (int64_t c = 0; c < width; c += PANEL) {
    if (job.anchor_asks) {
      store_tile(gradients.member, job.element, member, width, 0, length, c, s.context_sums + c, sums_row, s.keep);
    } else {
      store_tile(gradients.parts, Element::float32, part, width, 0, length, c, s.context_sums + c, sums_row, s.keep);
    }
  }
}

template <Precision P>
void backward(const Job& job, const Gradients& gradients, int64_t task, void* memory) {
  if (stream_of(job, task / groups(job), 0).length == 0) return;
  Pieces pieces{static_cast<char*>(memory), 0};
  const Scratch s = take_scratch<P>(pieces, job, true);
  const int64_t width = job.width, row = row_words<P>(width);
  for_each_cluster(job, task, [&](const Stream& stream, int64_t place) {
    const Strided projected{gradients.projected + member_row(job, stream) * width, Element::float32, width, 1};
    pack_rows<P>(projected, nullptr, stream.length, width, s.projected + place * row);
    backward_of_cluster<P>(job, gradients, stream, place, s);
  });
  multiply_all<P>(
      job, task, weight_of<P>(job, gradients.packed_t, task / groups(job)),
      [&](const Stream&, int64_t place) { return Left{s.asked + place * row, row}; },
      [&](const Stream& stream, int64_t, int64_t r0, int64_t n, int64_t c0, const float* sums) {
        if (job.anchor_asks) {
          const int64_t part = (stream.cluster * job.streams + stream.stream) * job.anchors;
          store_tile(gradients.parts, Element::float32, part, width, r0, n, c0, sums, PANEL, nullptr);
        } else {
          store_tile(gradients.member, job.element, member_row(job, stream), width, r0, n, c0, sums, PANEL, nullptr);
        }
      });
}

void anchor_gradient(const Job& job, const Gradients& gradients, int64_t cluster) {
  const int64_t width = job.width;
  with_kind(job.element, [&](auto kind) {
    for (int64_t t = 0; t < job.anchors; ++t) {
      char* const out = static_cast<char*>(gradients.anchor) + (cluster * job.anchors + t) * width * decltype(kind)::bytes;
      for (int64_t c = 0; c < width; c += LANES) {
        Floats sum{};
        for (int64_t m = 0; m < job.streams; ++m) {
          const int64_t length = stream_of(job, m, cluster).length;
          if (job.anchor_asks ? t >= length : length == 0) continue;
          const int64_t row = (cluster * job.streams + m) * job.anchors + t;
          sum += channels(Kind<Element::float32>{}, {gradients.parts, Element::float32, width, 1}, row, c, width);
        }
        store_channels(kind, out, c, width, sum);
      }
    }
  });
}

int64_t groups_of(const Job& job) { return (panels_of(job.width) + GROUP - 1) / GROUP; }

template <Precision P>
void weight_gradient(const Job& job, const Gradients& gradients, int64_t task, void* memory) {
  Pieces pieces{static_cast<char*>(memory), 0};
  const WeightScratch s = take_weight_scratch<P>(pieces, job);
  const int64_t w = task / groups_of(job), first_column = task % groups_of(job) * GROUP * PANEL, width = job.width;
  const int64_t columns = least(GROUP * PANEL, width - first_column), row = score_row(width);
  __builtin_memset(s.sums, 0, width * GROUP * PANEL * sizeof(float));
  const int64_t steps = words_of<P>(CHUNK);
  int64_t gathered = 0;
  const auto add_products = [&] {
    multiply<P, Order::columns>(
        {s.rows, row}, width, {s.panels, steps * PANEL, words_of<P>(gathered), columns},
        [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
          for_each_vector(r0, n, c0, columns, sums, [&](int64_t r, int64_t c, Floats x) {
            float* const at = s.sums + r * GROUP * PANEL + c;
            store(at, load<Floats>(at) + x);
          });
        });
    gathered = 0;
  };
  // Streams, clusters and rows in their order.
  for (int64_t m = job.weights == 1 ? 0 : w; m < (job.weights == 1 ? job.streams : w + 1); ++m) {
    for (int64_t cluster = 0; cluster < job.clusters; ++cluster) {
      const Stream stream = stream_of(job, m, cluster);
      const Strided asking = asking_rows(job, stream, 0);
      const float* const asked_rows = gradients.asked + member_row(job, stream) * width + first_column;
      const Strided asked{asked_rows, Element::float32, width, 1};
      for (int64_t r = 0; r < stream.length; ++r) {
        with_kind(job.element, [&](auto kind) {
          for (int64_t c = 0; c < width; c += LANES) {
            put_step<P>(s.rows + gathered / PACK<P> * row + c, gathered, channels(kind, asking, r, c, width));
          }
        });
        for (int64_t c = 0; c < columns; c += LANES) {
          put_panel_row<P>(s.panels, steps, gathered, c, channels(Kind<Element::float32>{}, asked, r, c, columns));
        }
        if (++gathered == CHUNK) add_products();
      }
    }
  }
  if (gathered > 0) add_products();
  with_kind(job.element, [&](auto kind) {
    for (int64_t r = 0; r < width; ++r) {
      char* const out = static_cast<char*>(gradients.weight) + ((w * width + r) * width + first_column) * decltype(kind)::bytes;
      for (int64_t c = 0; c < columns; c += LANES) {
        store_channels(kind, out, c, columns, load<Floats>(s.sums + r * GROUP * PANEL + c));
      }
    }
  });
}

// ---- The table ----

constexpr Precision FULL = Precision::float32, HALF = Precision::bfloat16;

int64_t packed_bytes_of(const Job& job) { return 4 * (job.bfloat16 ? weight_words<HALF>(job) : weight_words<FULL>(job)); }

int64_t panels_of_job(const Job& job) { return panels_of(job.width); }

void pack_of(const Job& job, const Strided& weight, bool transposed, int64_t panel, void* packed) {
  job.bfloat16 ? pack<HALF>(job, weight, transposed, panel, packed) : pack<FULL>(job, weight, transposed, panel, packed);
}

int64_t scratch_bytes_of(const Job& job, bool backward) {
  return job.bfloat16 ? scratch_bytes<HALF>(job, backward) : scratch_bytes<FULL>(job, backward);
}

void forward_of(const Job& job, const void* packed, void* output, float* projected, int64_t task, void* scratch) {
  job.bfloat16 ? forward<HALF>(job, packed, output, projected, task, scratch)
               : forward<FULL>(job, packed, output, projected, task, scratch);
}

void backward_of(const Job& job, const Gradients& gradients, int64_t task, void* scratch) {
  job.bfloat16 ? backward<HALF>(job, gradients, task, scratch) : backward<FULL>(job, gradients, task, scratch);
}

int64_t weight_tasks(const Job& job) { return job.weights * groups_of(job); }

void weight_gradient_of(const Job& job, const Gradients& gradients, int64_t task, void* scratch) {
  job.bfloat16 ? weight_gradient<HALF>(job, gradients, task, scratch) : weight_gradient<FULL>(job, gradients, task, scratch);
}

}  // namespace

extern const StreamLoops INTRAFORMER_STREAM_LOOPS;
const StreamLoops INTRAFORMER_STREAM_LOOPS = {packed_bytes_of, panels_of_job,   pack_of,      scratch_bytes_of,  forward_of,
                                              backward_of,     anchor_gradient, weight_tasks, weight_gradient_of};

}  // namespace intraformer::correlation_attention
