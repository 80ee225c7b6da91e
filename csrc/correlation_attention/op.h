// correlation_attention: C-ATT, attention through a learned correlation matrix in which keys and values are the context itself.
//
// Operators (schemas in intraformer_fast/ops/; B clusters, d channels):
//
//   correlation_attention(Tensor member, Tensor anchor, Tensor weight, Tensor? valid_member, Tensor? valid_anchor,
//       int num_streams, bool anchor_asks, bool keep) -> (Tensor result, Tensor projected)
//   correlation_attention_backward(Tensor grad, Tensor projected, Tensor member, Tensor anchor, Tensor weight,
//       Tensor? valid_member, Tensor? valid_anchor, int num_streams, bool anchor_asks)
//       -> (Tensor grad_member, Tensor grad_anchor, Tensor grad_weight)
//
//   member   [B, r, d]  the streams 1..k-1 of each cluster side by side, num_streams near-equal runs (numpy.array_split's rule)
//   anchor   [B, s, d]  stream 0; where it asks it is not shorter than any run
//   weight   [w, d, d]  w = num_streams, or 1 for all streams alike
//   valid_*  [B, r], [B, s]  bool, false at padding, or none; any strides
//   result   [B, r, d]  contiguous, as are the gradients
//   projected  [B, r, d] float32: T below, where `keep` asks for it, as the gradients do; else empty. On CUDA it always is, and T is
//                        made anew there
//
// The first three are float32, bfloat16 or float16, one for all, of any strides. With X the tokens that ask and C those that are looked
// at, for each stream (anchor_asks false: X is the member's, C the anchor; true: X is the first rows of the anchor, C the member):
//
//   T = X W   P = softmax(T C^T)   O = P C
//   dS = P (dO C^T - rowsum(P dO C^T))   G = dS C   dX = G W^T   dC = dS^T T + P^T dO   dW = X^T G
//
// The gradient of the anchor is the sum over the streams, that of a weight the sum over clusters and the streams that share it,
// both in their order, in float32. Sums and softmax are float32; bfloat16 operands of the products are rounded to bfloat16 only
// where the processor multiplies them (AVX-512-BF16), else they are float32 too.
//
// Edges. Padding in C is never looked at, and its gradient is 0 whatever stands in it (NaN included). A token that asks is computed
// like any other, padding or not: give finite padding there. Where no token may be looked at the result is 0, with gradient 0.
// Empty runs, r = 0, s = 0 and B = 0 are fine. Results do not depend on the number of threads.
#pragma once
