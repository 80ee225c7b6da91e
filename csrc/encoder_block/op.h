// encoder_block: a whole block of the Intraformer, all k streams of it, or a layer of any Transformer's encoder, for inference.
//
// Operators (schemas in csrc/library.cpp; B clusters of n tokens of d channels, H heads, f channels in the feed-forward network):
//
//   encoder_block_pack(Tensor[] parameters, int num_heads, str compute) -> Tensor
//   encoder_block_fingerprint(Tensor[] parameters) -> int
//   encoder_block(Tensor tokens, Tensor? valid, Tensor[] packed, int num_heads, int hidden_width, str compute,
//                 bool anchor_asks, float epsilon, bool post_norm=False, bool relu=False, bool padding_asks=False) -> Tensor
//
// A stream's parameters, contiguous float32, in this order (weights of linear layers are [out, in]):
//
//    0,  1   norm_attention     weight [d], bias [d]           8,  9   ffn_up       weight [f, d], bias [f]
//    2,  3   query_key_value    weight [3 d, d], bias [3 d]   10, 11   ffn_down     weight [d, f], bias [d]
//    4,  5   attention_output   weight [d, d], bias [d]       12       correlation  W [d, d]
//    6,  7   norm_ffn           weight [d], bias [d]          13, 14   norm_member  weight [d], bias [d]
//                                                             15, 16   norm_anchor  weight [d], bias [d]
//
// 12 of them for a Transformer (stream 0), 17 for a Cross-transformer (the others). Packed they are one uint8 tensor, whose
// layout belongs to the instruction set in use: it is made and read in one process.
//
// A fingerprint is that of up to 64 numbers of each parameter, spread over it: it tells in microseconds that weights were written
// in a way torch does not count (through .data, as averages of weights often are).
//
//   tokens   [B, n, d]  float32, channels contiguous, any other strides
//   valid    [B, n]     bool, false at padding, or none; any strides
//   packed   k tensors, one a stream; the same may serve several
//   result   [B, n, d]  float32, contiguous
//
// With h_m the tokens of sub-cluster m (consecutive near-equal runs, the first n mod k one longer), c = norm_anchor(h_0) and
// LN, attention, FFN those of stream m:
//
//   h_m' = h_m + W_o SelfAttention(norm_attention(h_m))          over the valid tokens of the sub-cluster; 0 at padding
//   m > 0:  h_m' += softmax((x W) c^T) c                          x = norm_member(h_m'); with anchor_asks softmax((c W) x^T) x
//   result_m = h_m' + FFN(norm_ffn(h_m'))                         FFN(x) = W_down gelu(W_up x)
//
// What other encoders do, with one stream only but for relu:
//
//   post_norm      h' = norm_attention(h + W_o SelfAttention(h)),  result = norm_ffn(h' + FFN(h'))
//   relu           in place of gelu
//   padding_asks   SelfAttention is at padding what it is elsewhere, an average over the valid tokens, instead of 0
//
// compute says what the matrix products multiply. Sums, norms, softmax, GELU and the tokens themselves are float32 in any case.
//
//   float32
//   bfloat16   both operands of every product are rounded to it
//   int8       the linear layers, and x W of C-ATT, multiply integers of a step each: x ~ a q, |q| <= 127, with a = max|x| / 127 of
//              the token's channels, found as it comes; W ~ c w with c of the output channel, found at packing; y = a c (q w) + bias
//              with q w summed in int32. The hidden layer has a step for each token and 512 channels. Both attentions multiply
//              float32. A token with a channel that is not finite, or a weight that is not, gives NaN. d is 65536 at most.
//
// Edges. What stands in a padding token changes no valid token of the result, except as a query of C-ATT with anchor_asks: give
// finite padding there. Its own row is computed like the others. Where no token may be looked at attention gives 0. A NaN in a
// valid token spoils its own sub-cluster, and through C-ATT what looks at it. B = 0 and n = 0 give empty results. d / H, d and f
// are multiples of 16. Results do not depend on the number of threads, nor on the other clusters of a batch.
#pragma once
