// Every kernel of purity_fmi that csrc/purity_fmi/cuda.cu launches, without torch.
#include "purity_fmi/kernels.cuh"

namespace intraformer::purity_fmi {

#define KERNELS(P, T)                                                                              \
  template void launch_forward(const Inputs<P, T>&, const Outputs<Accumulator<P>>&, cudaStream_t); \
  template void launch_backward(                                                                   \
      const Inputs<P, T>&, const Accumulator<P>*, Vector<Accumulator<P>>, Vector<Accumulator<P>>, P*, cudaStream_t);
#define KERNELS_OF(P) \
  KERNELS(P, uint8_t) KERNELS(P, int64_t) KERNELS(P, float) KERNELS(P, double) KERNELS(P, __half) KERNELS(P, __nv_bfloat16)
#define MEANS_KERNELS(A)                                                                     \
  template void launch_means(const A*, const A*, const uint8_t*, int64_t, A*, cudaStream_t); \
  template void launch_means_backward(Vector<A>, const A*, const uint8_t*, int64_t, const A*, bool, A*, A*, cudaStream_t);

KERNELS_OF(float)
KERNELS_OF(double)
KERNELS_OF(__half)
KERNELS_OF(__nv_bfloat16)
MEANS_KERNELS(float)
MEANS_KERNELS(double)

}  // namespace intraformer::purity_fmi
