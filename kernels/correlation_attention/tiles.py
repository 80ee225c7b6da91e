"""What the kernels of this room share: runs of tokens, softmax of a tile of scores."""

import triton
import triton.language as tl

# Sizes that differ from call to call: not worth a compilation each.
SIZES = [
    *("num_queries", "num_context", "num_runs", "num_parts", "num_z", "num_c"),
    *("stride_valid_b", "stride_valid_n", "stride_z_ids_b", "stride_z_ids_q", "stride_c_ids_b", "stride_c_ids_n"),
]


@triton.jit
def run_of(i_run, length, num_runs):
    """Start and size of a run, as numpy.array_split cuts `length` into `num_runs`."""
    size = length // num_runs
    longer = length % num_runs
    return i_run * size + tl.minimum(i_run, longer), size + (i_run < longer).to(tl.int32)


@triton.jit
def softmax_columns(b_s):
    """Over the first axis of transposed scores [BN, BM], in float32; -inf is no context, and a query without any gets zeros."""
    b_max = tl.max(b_s, 0)
    # Without any context the largest score is -inf, and -inf - -inf is NaN.
    b_p = tl.exp(b_s - tl.where(b_max == -float("inf"), 0.0, b_max)[None, :])
    b_sum = tl.sum(b_p, 0)
    return b_p / tl.where(b_sum == 0.0, 1.0, b_sum)[None, :]
