// stream_linear: a linear layer of each stream, with the LayerNorm or GELU in front of it and the residual behind it.
//
// Operators (schemas in csrc/library.cpp; B clusters of n tokens, k streams, c channels in and f out):
//
//   stream_linear(Tensor input, Tensor? residual, Tensor[] weights, Tensor[] biases, Tensor[] norm_weights, Tensor[] norm_biases,
//       bool gelu, float epsilon, bool bfloat16) -> (Tensor output, Tensor moments)
//   stream_linear_backward(Tensor grad, Tensor input, Tensor moments, Tensor[] weights, Tensor[] norm_weights,
//       Tensor[] norm_biases, bool gelu, bool bfloat16)
//       -> (Tensor grad_input, Tensor grad_weights, Tensor grad_biases, Tensor grad_norm_weights, Tensor grad_norm_biases)
//
//   input         [B, n, c]     float32 or bfloat16, any strides
//   residual      [B, n, f]     the same, or none
//   weights       k x [f, c]    float32, as are all parameters; any strides
//   biases        k x [f]
//   norm_*        k x [c], or empty lists: no LayerNorm. There is none where gelu is true.
//   output        [B, n, f]     contiguous; in the dtype of the residual, else bfloat16 where that is asked for, else float32
//   moments       [2, B, n]     float32, of the LayerNorm: the mean of each token, and 1 / sqrt(variance + epsilon); or empty
//   grad          [B, n, f]     float32 or bfloat16, any strides
//   grad_input    [B, n, c]     in the dtype of the input
//   grad_weights  [k, f, c]     float32, as are those of the other parameters, [k, ...] too
//
// With x the tokens of stream m (consecutive near-equal runs, the first n mod k one longer) and p one of x, LayerNorm_m(x), gelu(x):
//
//   y = p W_m^T + b_m + residual        dp = dy W_m    dW_m = dy^T p    db_m = sum of dy over the tokens
//   gelu: dx = dp gelu'(x)              LayerNorm, with z = (x - mean) / sqrt(variance + epsilon) and g = dp * weight:
//                                       dx = (g - mean(g) - z mean(g z)) / sqrt(variance + epsilon)
//                                       dweight = sum of dp z    dbias = sum of dp
//
// The gradient of the residual is that of the output. p is made anew for the gradients, not kept.
//
// bfloat16 operands of the products are rounded to bfloat16 only where the processor multiplies them (AVX-512-BF16), else they are
// the float32 that they came from. Sums, moments and GELU are float32. c and f are multiples of 16.
//
// Edges. Tokens do not see each other, except as terms of the parameters' gradients. Empty runs, B = 0 and n = 0 are fine. Sums
// over the tokens run in an order that their number alone fixes: results do not depend on the number of threads.
#pragma once
