"""What the kernels of this room share: runs of tokens, which context is there, softmax of a tile of scores."""

import triton
import triton.language as tl

# Sizes that differ from call to call: not worth a compilation each.
SIZES = ["num_queries", "num_context", "num_runs", "num_parts", "stride_valid_b", "stride_valid_n"]


@triton.jit
def run_of(i_run, length, num_runs):
    """Start and size of a run, as numpy.array_split cuts `length` into `num_runs`."""
    size = length // num_runs
    longer = length % num_runs
    return i_run * size + tl.minimum(i_run, longer), size + (i_run < longer).to(tl.int32)


@triton.jit
def context_mask(p_valid, stride_vb, stride_vn, i_b, o_c, m_run):
    """Which of the tokens `o_c` of a run are there; without `p_valid` all that `m_run` says are of the run."""
    if p_valid is not None:
        m_run = tl.load(p_valid + i_b * stride_vb + o_c.to(tl.int64) * stride_vn, mask=m_run, other=0) != 0
    return m_run


@triton.jit
def softmax_columns(b_s, m_c):
    """Over the first axis of transposed scores [BN, BM], in float32, over the context that `m_c` keeps; zeros where it keeps none."""
    b_s = tl.where(m_c[:, None], b_s, -float("inf"))
    b_max = tl.max(b_s, 0)
    # Without any context the largest score is -inf, and -inf - -inf is NaN.
    b_p = tl.exp(b_s - tl.where(b_max == -float("inf"), 0.0, b_max)[None, :])
    b_sum = tl.sum(b_p, 0)
    return b_p / tl.where(b_sum == 0.0, 1.0, b_sum)[None, :]
