// block_attention: multi-head self-attention inside each of the sub-clusters of a cluster; gather_block_attention: the same over
// rows of tables.
//
// Operators (schemas in intraformer_fast/ops/; B clusters of n tokens, H heads of D channels, N samples in a table):
//
//   block_attention(Tensor q, Tensor k, Tensor v, Tensor? valid, int num_blocks, float scale) -> Tensor
//   block_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? valid, int num_blocks, float scale)
//       -> (Tensor grad_q, Tensor grad_k, Tensor grad_v)
//   gather_block_attention(Tensor q_table, Tensor k_table, Tensor v_table, Tensor neighbors, int num_blocks, float scale) -> Tensor
//   gather_block_attention_backward(Tensor grad, Tensor q_table, Tensor k_table, Tensor v_table, Tensor neighbors,
//       int num_blocks, float scale) -> (Tensor grad_q_table, Tensor grad_k_table, Tensor grad_v_table)
//
//   q, k, v     [B, H, n, D]  float32, bfloat16 or float16, one for all; any strides
//   valid       [B, n]        bool, false at padding, or none; any strides
//   tables      [N, H, D]     float32, bfloat16 or float16, one for all; any strides
//   neighbors   [B, n]        int32 or int64, rows of the tables; negative at padding; any strides
//   output      [B, H, n, D]  in that dtype, over the memory of a contiguous [B, n, H, D]; so are the gradients of q, k and v
//   gradients of tables [N, H, D]  in that dtype, contiguous; the sum over all places that name a sample, taken in float32
//
// In each of num_blocks near-equal consecutive runs of the tokens (numpy.array_split's rule):
//
//   P = softmax(scale Q K^T)   O = P V   dS = P (dO V^T - rowsum(P dO V^T))   dQ = scale dS K   dK = scale dS^T Q   dV = P^T dO
//
// Sums and softmax are float32; bfloat16 operands of the products are rounded to bfloat16 only where the processor multiplies
// them (AVX-512-BF16), else they are float32 too. The backward pass keeps only the inputs and computes P anew.
//
// Edges. Padding is never looked at and does not ask: its output and its gradients are 0, whatever stands in it (NaN included). A
// NaN in a valid token spoils its own run and no other. n = 0, B = 0, N = 0 and more blocks than tokens are fine. A neighbor that
// is not below N is an error (Python's IndexError) before anything is computed. Results do not depend on the number of threads,
// nor on the other clusters of a batch. Memory of a thread: about 8 n D + 168 n floats for the longest run n.
#pragma once
