// A sub-cluster goes through the whole block on one thread, and its rows stay in that core's second-level cache: at the paper's
// size 128 KB in each of a handful of buffers, while a panel of weights after the other comes by. The hidden layer of the
// feed-forward network exists in chunks only, each used up at once.
#include "encoder_block/cpu_block.h"

#include "cpu/attention.h"
#include "encoder_block/packed.h"

namespace intraformer::encoder_block {
namespace {

// ---- One task: a stream of some clusters ----

// Rows of A that linear layers take; int8 has a scale for each.
struct Activations {
  uint32_t* words;
  float* scales;
};

struct Scratch {
  Activations normed;  // [BLOCK_ROWS], after a LayerNorm; or what the heads attended to, where it has to be brought to int8
  Activations hidden;  // [BLOCK_ROWS], a chunk of the hidden layer
  float* unscaled;     // int8 only: a row, or [BLOCK_ROWS] of the hidden layer, whose scales are not known yet
  uint32_t* queries;   // [rows of the task] rows of A; later what the heads attended to
  uint32_t* keys;      // panels, a head after the other, of every cluster of the task
  uint32_t* values;    // the same
  AttentionScratch attention;
  uint32_t* keep;  // [context], all ones where a token may be looked at
};

template <Precision P>
INTRAFORMER_INLINE Scratch take_scratch(Pieces& pieces, const Job& job) {
  constexpr Precision A = ATTENTION<P>;
  const int64_t d = job.sizes.width, heads = job.sizes.heads, longest = (job.tokens + job.streams - 1) / job.streams;
  const int64_t clusters = job.clusters_a_task;
  Scratch s{};
  s.normed.words = Pieces::next<uint32_t>(pieces, BLOCK_ROWS * row_words<A>(d));  // the context of C-ATT comes by here too
  s.hidden.words = Pieces::next<uint32_t>(pieces, BLOCK_ROWS * row_words<P>(CHUNK<P>));
  if (P == Precision::int8) {
    s.normed.scales = Pieces::next<float>(pieces, BLOCK_ROWS);
    s.hidden.scales = Pieces::next<float>(pieces, BLOCK_ROWS);
    s.unscaled = Pieces::next<float>(pieces, most(d, BLOCK_ROWS * row_words<Precision::float32>(CHUNK<P>)));
  }
  s.queries = Pieces::next<uint32_t>(pieces, clusters * longest * row_words<A>(d));
  s.keys = Pieces::next<uint32_t>(pieces, most(clusters * heads * key_words<A>(longest, d / heads), key_words<A>(longest, d)));
  s.values =
      Pieces::next<uint32_t>(pieces, most(clusters * heads * value_words<A>(longest, d / heads), value_words<A>(longest, d)));
  s.attention = take_attention<A>(pieces, longest);
  s.keep = Pieces::next<uint32_t>(pieces, round_up(longest, PANEL));
  return s;
}

template <Precision P>
int64_t scratch_bytes(const Job& job) {
  Pieces pieces{nullptr, 0};
  take_scratch<P>(pieces, job);
  return pieces.used;
}

// In 32 bits, which rows of a task and channels fit in: dividing 64 takes as long as a dozen of products.
INTRAFORMER_INLINE int64_t quotient(int64_t a, int64_t b) { return static_cast<uint32_t>(a) / static_cast<uint32_t>(b); }
INTRAFORMER_INLINE int64_t remainder(int64_t a, int64_t b) { return static_cast<uint32_t>(a) % static_cast<uint32_t>(b); }

// A run of the tokens of each cluster of a task; row r is token r % length of cluster r / length.
struct Rows {
  const Job& job;
  int64_t first_cluster, clusters;
  int64_t first_token, length;

  static int64_t count(const Rows& rows) { return rows.clusters * rows.length; }
  INTRAFORMER_INLINE int64_t cluster(const Rows& rows, int64_t r) { return rows.first_cluster + quotient(r, rows.length); }
  INTRAFORMER_INLINE int64_t token(const Rows& rows, int64_t r) { return rows.first_token + remainder(r, rows.length); }
  INTRAFORMER_INLINE const float* input(const Rows& rows, int64_t r) {
    return rows.job.input + cluster(rows, r) * rows.job.cluster_stride + token(rows, r) * rows.job.token_stride;
  }
  INTRAFORMER_INLINE float* output(const Rows& rows, int64_t r) {
    return rows.job.output + (cluster(rows, r) * rows.job.tokens + token(rows, r)) * rows.job.sizes.width;
  }
  INTRAFORMER_INLINE bool valid(const Rows& rows, int64_t r) {
    const Job& job = rows.job;
    return job.valid == nullptr ||
           job.valid[cluster(rows, r) * job.valid_cluster_stride + token(rows, r) * job.valid_token_stride] != 0;
  }
};

INTRAFORMER_INLINE Rows rows_of(const Job& job, int64_t stream, int64_t group) {
  const int64_t length = job.tokens / job.streams, longer = job.tokens % job.streams;  // numpy.array_split's rule
  const int64_t first = group * job.clusters_a_task;
  return {
      job, first, least(job.clusters_a_task, job.clusters - first), stream * length + least(stream, longer),
      length + (stream < longer)};
}

// A tile at a time to epilogue(row, rows, column, tile), where tile is for for_each_vector.
template <Precision P, typename Epilogue>
INTRAFORMER_INLINE void multiply(const Activations& a, int64_t a_row, int64_t rows, const Panels& b, Epilogue epilogue) {
  const Left left{a.words, a_row};
  const Right right{b.words, b.panel, b.steps, b.columns};
  if constexpr (P == Precision::int8) {
    ::multiply<P>(left, rows, right, [&](int64_t r0, int64_t n, int64_t c0, const int32_t* sums) {
      epilogue(r0, n, c0, QuantizedTile{sums, a.scales + r0, b.quantized});
    });
  } else {
    ::multiply<P>(left, rows, right, epilogue);
  }
}

// The words of `count` rows of A, each to its own place in panels that run along K in the same way.
INTRAFORMER_INLINE void put_columns(
    const uint32_t* rows, int64_t row, int64_t count, int64_t words, uint32_t* panels, const int64_t* places) {
  for (int64_t w = 0; w < words; ++w) {
    for (int64_t r = 0; r < count; ++r) panels[w * PANEL + places[r]] = rows[r * row + w];
  }
}

template <Precision P, typename Source>
INTRAFORMER_INLINE void normalize(
    int64_t count, int64_t width, const Norm& norm, float epsilon, const Scratch& s, Source source) {
  for (int64_t r = 0; r < count; ++r) {
    uint32_t* const to = s.normed.words + r * row_words<P>(width);
    if constexpr (P == Precision::int8) {
      Ints magnitudes{};
      layer_norm(source(r), width, norm.weight, norm.bias, epsilon, [&](int64_t j, Floats x) {
        magnitudes = larger_magnitude(magnitudes, x);
        store(s.unscaled + j, x);
      });
      s.normed.scales[r] = quantize(s.unscaled, width, magnitudes, to);
    } else {
      layer_norm(source(r), width, norm.weight, norm.bias, epsilon, [&](int64_t j, Floats x) { put_row<P>(to, j, x); });
    }
  }
}

// Rows of A for the products of an attention or a feed-forward network: normalised first, where the norm does not come last.
template <Precision P, typename Source>
INTRAFORMER_INLINE void enter(const Job& job, int64_t count, const Norm& norm, const Scratch& s, Source source) {
  const int64_t d = job.sizes.width;
  if (!job.layer.post_norm) return normalize<P>(count, d, norm, job.epsilon, s, source);
  for (int64_t r = 0; r < count; ++r) {
    uint32_t* const to = s.normed.words + r * row_words<P>(d);
    if constexpr (P == Precision::int8) {
      s.normed.scales[r] = quantize(source(r), d, to);
    } else {
      for (int64_t j = 0; j < d; j += LANES) put_row<P>(to, j, load<Floats>(source(r) + j));
    }
  }
}

// What follows the residual: nothing, or the norm, in place.
INTRAFORMER_INLINE void leave(const Rows& rows, int64_t first, int64_t count, const Norm& norm) {
  if (!rows.job.layer.post_norm) return;
  for (int64_t r = first; r < first + count; ++r) {
    float* const x = Rows::output(rows, r);
    layer_norm(x, rows.job.sizes.width, norm.weight, norm.bias, rows.job.epsilon, [&](int64_t j, Floats y) { store(x + j, y); });
  }
}

template <Precision P>
void project(const Rows& rows, const Weights& w, const Scratch& s) {
  constexpr Precision A = ATTENTION<P>;
  const int64_t d = rows.job.sizes.width, heads = rows.job.sizes.heads, width = d / heads;
  const int64_t row = row_words<P>(d), query_row = row_words<A>(d), steps = words_of<A>(width);
  const int64_t head_keys = key_words<A>(rows.length, width), head_values = value_words<A>(rows.length, width);
  constexpr int64_t SEGMENT = PANEL < 16 ? PANEL : 16;  // channels of one head: its width is a multiple of 16
  for_each_block(Rows::count(rows), [&](int64_t first, int64_t count) {
    enter<P>(rows.job, count, w.norm_attention, s, [&](int64_t r) { return Rows::input(rows, first + r); });
    multiply<P>(s.normed, row, count, w.query.weight, [&](int64_t r0, int64_t n, int64_t c0, const auto& sums) {
      for_each_vector(r0, n, c0, d, sums, [&](int64_t r, int64_t c, Floats x) {
        put_row<A>(s.queries + (first + r) * query_row, c, x + load<Floats>(w.query.bias + c));
      });
    });
    multiply<P>(s.normed, row, count, w.key.weight, [&](int64_t r0, int64_t n, int64_t c0, const auto& sums) {
      alignas(64) uint32_t tile[TILE_ROWS * PANEL];
      int64_t places[TILE_ROWS];
      for (int64_t r = 0; r < n; ++r) {
        const int64_t cluster = quotient(first + r0 + r, rows.length), token = remainder(first + r0 + r, rows.length);
        places[r] = cluster * heads * head_keys + (token / PANEL) * steps * PANEL + token % PANEL;
      }
      for_each_vector(r0, n, c0, d, sums, [&](int64_t r, int64_t c, Floats x) {
        put_row<A>(tile + (r - r0) * PANEL, c - c0, x + load<Floats>(w.key.bias + c));
      });
      for (int64_t c = c0; c < least(c0 + PANEL, d); c += SEGMENT) {
        uint32_t* const head = s.keys + quotient(c, width) * head_keys + remainder(c, width) / PACK<A> * PANEL;
        put_columns(tile + (c - c0) / PACK<A>, PANEL, n, SEGMENT / PACK<A>, head, places);
      }
    });
    multiply<P>(s.normed, row, count, w.value.weight, [&](int64_t r0, int64_t n, int64_t c0, const auto& sums) {
      for_each_vector(r0, n, c0, d, sums, [&](int64_t r, int64_t c, Floats x) {
        const int64_t cluster = quotient(first + r, rows.length), token = remainder(first + r, rows.length);
        const Floats value = x + load<Floats>(w.value.bias + c);
        // Zero times NaN is NaN: what stands in the padding must not reach the product with the probabilities.
        put_panel_row<A>(
            s.values + (cluster * heads + quotient(c, width)) * head_values, words_of<A>(rows.length), token, remainder(c, width),
            Rows::valid(rows, first + r) ? value : Floats{});
      });
    });
  });
}

// Which tokens of a cluster may be looked at.
INTRAFORMER_INLINE void mark_kept(const Rows& rows, int64_t cluster, uint32_t* keep) {
  for (int64_t t = 0; t < round_up(rows.length, PANEL); ++t) {
    keep[t] = t < rows.length && Rows::valid(rows, cluster * rows.length + t) ? ~0u : 0u;
  }
}

template <Precision P>
void self_attention(const Rows& rows, const Weights& w, const Scratch& s) {
  constexpr Precision A = ATTENTION<P>;
  const int64_t d = rows.job.sizes.width, length = rows.length, row = row_words<A>(d);
  const int64_t heads = rows.job.sizes.heads, width = d / heads;
  const bool padding_asks = rows.job.layer.padding_asks;
  project<P>(rows, w, s);
  for (int64_t cluster = 0; cluster < rows.clusters; ++cluster) {
    mark_kept(rows, cluster, s.keep);
    uint32_t* const queries = s.queries + cluster * length * row;
    for (int64_t head = 0; head < heads; ++head) {
      const uint32_t* const keys = s.keys + (cluster * heads + head) * key_words<A>(length, width);
      const uint32_t* const values = s.values + (cluster * heads + head) * value_words<A>(length, width);
      attend<A>(
          {queries + head * words_of<A>(width), row}, length, {length, width, width, s.keep, keys, values, nullptr, nullptr},
          1.0f / __builtin_sqrtf(static_cast<float>(width)), s.attention,
          [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
            // In place of the queries of this head, which nobody needs any more.
            for_each_vector(r0, n, c0, width, sums, [&](int64_t r, int64_t c, Floats x) {
              put_row<A>(queries + r * row, head * width + c, s.keep[r] || padding_asks ? x : Floats{});
            });
          });
    }
  }
  for_each_block(Rows::count(rows), [&](int64_t first, int64_t count) {
    Activations attended{s.queries + first * row, nullptr};
    if constexpr (P == Precision::int8) {
      for (int64_t r = 0; r < count; ++r) {
        const float* const from = reinterpret_cast<const float*>(attended.words + r * row);
        s.normed.scales[r] = quantize(from, d, s.normed.words + r * row_words<P>(d));
      }
      attended = s.normed;
    }
    multiply<P>(
        attended, row_words<P>(d), count, w.attention_output.weight, [&](int64_t r0, int64_t n, int64_t c0, const auto& sums) {
          for_each_vector(r0, n, c0, d, sums, [&](int64_t r, int64_t c, Floats x) {
            x += load<Floats>(w.attention_output.bias + c) + load<Floats>(Rows::input(rows, first + r) + c);
            store(Rows::output(rows, first + r) + c, x);
          });
        });
    leave(rows, first, count, w.norm_attention);
  });
}

// Adds C-ATT to the rows of a stream. `anchor`: the rows of sub-cluster 0, as they entered the block.
template <Precision P>
void cross_attention(const Rows& members, const Rows& anchor, const Weights& w, const Scratch& s) {
  constexpr Precision A = ATTENTION<P>;
  const Job& job = members.job;
  const int64_t d = job.sizes.width, row = row_words<A>(d), steps = words_of<A>(d), length = members.length;
  // The answer to query j goes to token j of the stream, whoever asks; sub-cluster 0 is never the shorter one.
  for_each_block(Rows::count(members), [&](int64_t first, int64_t count) {
    normalize<P>(count, d, job.anchor_asks ? w.norm_anchor : w.norm_member, job.epsilon, s, [&](int64_t i) {
      const int64_t r = first + i;
      if (!job.anchor_asks) return static_cast<const float*>(Rows::output(members, r));
      return Rows::input(anchor, quotient(r, length) * anchor.length + remainder(r, length));
    });
    multiply<P>(s.normed, row_words<P>(d), count, w.correlation, [&](int64_t r0, int64_t n, int64_t c0, const auto& sums) {
      for_each_vector(
          r0, n, c0, d, sums, [&](int64_t r, int64_t c, Floats x) { put_row<A>(s.queries + (first + r) * row, c, x); });
    });
  });
  const Rows& context = job.anchor_asks ? members : anchor;
  for (int64_t cluster = 0; cluster < members.clusters; ++cluster) {
    mark_kept(context, cluster, s.keep);
    for_each_block(context.length, [&](int64_t first, int64_t count) {
      int64_t places[BLOCK_ROWS];
      for (int64_t r = 0; r < count; ++r) {
        const int64_t t = first + r;
        places[r] = (t / PANEL) * steps * PANEL + t % PANEL;
        const auto write = [&](int64_t j, Floats x) {
          put_row<A>(s.normed.words + r * row, j, x);
          put_panel_row<A>(s.values, words_of<A>(context.length), t, j, x);
        };
        if (!s.keep[t]) {
          for (int64_t j = 0; j < d; j += LANES) write(j, Floats{});
        } else if (job.anchor_asks) {
          layer_norm(
              Rows::output(context, cluster * context.length + t), d, w.norm_member.weight, w.norm_member.bias, job.epsilon,
              write);
        } else {
          layer_norm(
              Rows::input(context, cluster * context.length + t), d, w.norm_anchor.weight, w.norm_anchor.bias, job.epsilon,
              write);
        }
      }
      put_columns(s.normed.words, row, count, steps, s.keys, places);
    });
    attend<A>(
        {s.queries + cluster * length * row, row}, length, {context.length, d, d, s.keep, s.keys, s.values, nullptr, nullptr},
        1.0f, s.attention, [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
          for_each_vector(r0, n, c0, d, sums, [&](int64_t r, int64_t c, Floats x) {
            float* const to = Rows::output(members, cluster * length + r) + c;
            store(to, load<Floats>(to) + x);
          });
        });
  }
}

// max(x, 0). NaN stays NaN.
INTRAFORMER_INLINE Floats relu(Floats x) { return bits<Floats>(bits<Words>(x) & ~mask(x < 0.0f)); }

template <Precision P, typename Activation>
void feed_forward(const Rows& rows, const Weights& w, const Scratch& s, Activation activation) {
  const int64_t d = rows.job.sizes.width, hidden = rows.job.sizes.hidden;
  const int64_t row = row_words<P>(d), hidden_row = row_words<P>(CHUNK<P>);
  const int64_t unscaled_row = row_words<Precision::float32>(CHUNK<P>);
  for_each_block(Rows::count(rows), [&](int64_t first, int64_t count) {
    enter<P>(rows.job, count, w.norm_ffn, s, [&](int64_t r) { return Rows::output(rows, first + r); });
    for (int64_t chunk = 0; chunk < hidden; chunk += CHUNK<P>) {
      const int64_t width = least(CHUNK<P>, hidden - chunk);
      const Linear up = columns_from<P>(w.ffn_up, chunk, width);
      multiply<P>(s.normed, row, count, up.weight, [&](int64_t r0, int64_t n, int64_t c0, const auto& sums) {
        for_each_vector(r0, n, c0, width, sums, [&](int64_t r, int64_t c, Floats x) {
          x = activation(x + load<Floats>(up.bias + c));
          if constexpr (P == Precision::int8) {
            store(s.unscaled + r * unscaled_row + c, x);
          } else {
            put_row<P>(s.hidden.words + r * hidden_row, c, x);
          }
        });
      });
      if constexpr (P == Precision::int8) {
        for (int64_t r = 0; r < count; ++r) {
          s.hidden.scales[r] = quantize(s.unscaled + r * unscaled_row, width, s.hidden.words + r * hidden_row);
        }
      }
      const Panels down = rows_from<P>(w.ffn_down.weight, chunk, width);
      multiply<P>(s.hidden, hidden_row, count, down, [&](int64_t r0, int64_t n, int64_t c0, const auto& sums) {
        for_each_vector(r0, n, c0, d, sums, [&](int64_t r, int64_t c, Floats x) {
          float* const to = Rows::output(rows, first + r) + c;
          if (chunk == 0) x += load<Floats>(w.ffn_down.bias + c);
          store(to, load<Floats>(to) + x);
        });
      });
    }
    leave(rows, first, count, w.norm_ffn);
  });
}

template <Precision P>
void run(const Job& job, int64_t task, void* memory) {
  const int64_t stream = task / groups(job), group = task % groups(job);
  const Rows rows = rows_of(job, stream, group);
  if (rows.length == 0) return;
  // The packed weights are only read.
  Pieces packed{static_cast<char*>(const_cast<void*>(job.packed[stream])), 0};
  const Weights weights = take_weights<P>(packed, job.sizes, job.sizes.cross && stream > 0);
  Pieces pieces{static_cast<char*>(memory), 0};
  const Scratch scratch = take_scratch<P>(pieces, job);
  self_attention<P>(rows, weights, scratch);
  if (job.sizes.cross && stream > 0) cross_attention<P>(rows, rows_of(job, 0, group), weights, scratch);
  if (job.layer.relu) {
    feed_forward<P>(rows, weights, scratch, [](Floats x) { return relu(x); });
  } else {
    feed_forward<P>(rows, weights, scratch, [](Floats x) { return gelu(x); });
  }
}

// ---- The table ----

template <Precision P>
struct For {
  static constexpr Precision precision = P;
};

template <typename Body>
INTRAFORMER_INLINE auto with_precision(Compute compute, Body body) {
  if (compute == Compute::int8) return body(For<Precision::int8>{});
  if (compute == Compute::bfloat16) return body(For<Precision::bfloat16>{});
  return body(For<Precision::float32>{});
}

int64_t packed_bytes_of(const Sizes& sizes) {
  return with_precision(sizes.compute, [&](auto p) { return packed_bytes<p.precision>(sizes); });
}

void pack_of(const Sizes& sizes, const Parameters& parameters, void* packed) {
  with_precision(sizes.compute, [&](auto p) { pack<p.precision>(sizes, parameters, packed); });
}

int64_t scratch_bytes_of(const Job& job) {
  return with_precision(job.sizes.compute, [&](auto p) { return scratch_bytes<p.precision>(job); });
}

void run_of(const Job& job, int64_t task, void* scratch) {
  with_precision(job.sizes.compute, [&](auto p) { run<p.precision>(job, task, scratch); });
}

}  // namespace

extern const BlockLoops INTRAFORMER_BLOCK_LOOPS;
const BlockLoops INTRAFORMER_BLOCK_LOOPS = {packed_bytes_of, pack_of, scratch_bytes_of, run_of};

}  // namespace intraformer::encoder_block
