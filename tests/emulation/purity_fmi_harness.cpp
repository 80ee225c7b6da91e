// Runs the kernels of purity_fmi on the CPU: reads cases from standard input, writes their results to standard output; the layout
// of both is in conftest.py. A broken rule ends it with status 1 and a line on standard error.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

#include "purity_fmi/kernels.cuh"

using namespace intraformer::purity_fmi;

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t CANARY_BYTES = 0;  // the sanitizer's own red zones are nearer, and see reads
#else
constexpr size_t CANARY_BYTES = 64;
#endif
constexpr unsigned char CANARY_BYTE = 0xA5, POISON = 0xFF;

struct Header {
  int64_t kind, prediction_type, target_type, has_valid, from_logits, exact, rows, columns;
  int64_t prediction_strides[2], target_strides[2], valid_strides[2];
  int64_t grad_strides[2];
  int64_t detach_point, order;
};

void read_exactly(void* destination, size_t size) {
  if (size && std::fread(destination, 1, size, stdin) != size) throw std::runtime_error("the case ends too early");
}

// A buffer of exactly the bytes that the test sent.
class Input {
 public:
  Input() {
    int64_t size;
    read_exactly(&size, sizeof size);
    read_exactly(&offset_, sizeof offset_);
    bytes_ = static_cast<char*>(std::malloc(size));
    read_exactly(bytes_, size);
  }
  Input(const Input&) = delete;
  ~Input() { std::free(bytes_); }
  template <typename T>
  const T* data() const {
    return reinterpret_cast<const T*>(bytes_ + offset_);
  }

 private:
  char* bytes_;
  int64_t offset_;
};

// A buffer of exactly the bytes that the kernel is to write, between canaries.
template <typename T>
class Output {
 public:
  explicit Output(int64_t count)
      : size_(count * sizeof(T)), bytes_(static_cast<unsigned char*>(std::malloc(size_ + 2 * CANARY_BYTES))) {
    std::memset(bytes_, CANARY_BYTE, size_ + 2 * CANARY_BYTES);
    std::memset(bytes_ + CANARY_BYTES, POISON, size_);
  }
  Output(const Output&) = delete;
  ~Output() { std::free(bytes_); }
  T* data() { return reinterpret_cast<T*>(bytes_ + CANARY_BYTES); }
  void write() const {
    for (size_t i = 0; i < CANARY_BYTES; ++i) {
      if (bytes_[i] != CANARY_BYTE || bytes_[CANARY_BYTES + size_ + i] != CANARY_BYTE) {
        throw std::runtime_error("wrote next to an output of " + std::to_string(size_) + " bytes");
      }
    }
    std::fwrite(bytes_ + CANARY_BYTES, 1, size_, stdout);
  }

 private:
  size_t size_;
  unsigned char* bytes_;
};

template <typename P, typename T>
void run_rows(const Header& h) {
  using A = Accumulator<P>;
  const Input prediction, target, valid, grad_loss, grad_purity;
  const Inputs<P, T> in{
      {prediction.data<P>(), h.prediction_strides[0], h.prediction_strides[1]},
      {target.data<T>(), h.target_strides[0], h.target_strides[1]},
      {h.has_valid ? valid.data<uint8_t>() : nullptr, h.valid_strides[0], h.valid_strides[1]},
      h.rows,
      h.columns,
      h.from_logits != 0,
      h.exact != 0};
  Output<A> loss(h.rows), purity(h.rows), sums(h.rows * 3);
  Output<P> grad_prediction(h.rows * h.columns);
  launch_forward(in, {loss.data(), purity.data(), sums.data()}, nullptr);
  launch_backward(
      in, sums.data(), {grad_loss.data<A>(), h.grad_strides[0]}, {grad_purity.data<A>(), h.grad_strides[1]},
      grad_prediction.data(), nullptr);
  loss.write();
  purity.write();
  sums.write();
  grad_prediction.write();
}

template <typename A>
void run_means(const Header& h) {
  const Input loss, purity, counted, grad;
  const uint8_t* const counts = h.has_valid ? counted.data<uint8_t>() : nullptr;
  Output<A> means(MEANS), grad_loss(h.rows), grad_purity(h.rows);
  launch_means(loss.data<A>(), purity.data<A>(), counts, h.rows, means.data(), nullptr);
  launch_means_backward(
      Vector<A>{grad.data<A>(), h.grad_strides[0]}, purity.data<A>(), counts, h.rows, means.data(), h.detach_point != 0,
      grad_loss.data(), grad_purity.data(), nullptr);
  means.write();
  grad_loss.write();
  grad_purity.write();
}

// Compiling every pair of types under a sanitizer takes half a minute: TYPE_PAIRS chooses 1 (float, bool), 3 or all of them.
template <typename P, typename T>
constexpr bool BUILT = TYPE_PAIRS > 3 || (std::is_same_v<P, float> && std::is_same_v<T, uint8_t>) ||
                       (TYPE_PAIRS == 3 && ((std::is_same_v<P, double> && std::is_same_v<T, float>) ||
                                            (std::is_same_v<P, __nv_bfloat16> && std::is_same_v<T, int64_t>)));

template <typename P, typename T>
void run_rows_if_built(const Header& h) {
  if constexpr (BUILT<P, T>) {
    run_rows<P, T>(h);
  } else {
    throw std::runtime_error("this pair of types is not built");
  }
}

template <typename P>
void run_rows_of(const Header& h) {
  switch (h.target_type) {
    case 0: return run_rows_if_built<P, uint8_t>(h);
    case 1: return run_rows_if_built<P, int64_t>(h);
    case 2: return run_rows_if_built<P, float>(h);
    case 3: return run_rows_if_built<P, double>(h);
    case 4: return run_rows_if_built<P, __half>(h);
    case 5: return run_rows_if_built<P, __nv_bfloat16>(h);
  }
  throw std::runtime_error("unknown target type");
}

void run(const Header& h) {
  simt::set_order(h.order);
  if (h.kind == 1) return h.prediction_type == 0 ? run_means<float>(h) : run_means<double>(h);
  switch (h.prediction_type) {
    case 0: return run_rows_of<float>(h);
    case 1: return run_rows_of<double>(h);
    case 2: return run_rows_of<__half>(h);
    case 3: return run_rows_of<__nv_bfloat16>(h);
  }
  throw std::runtime_error("unknown prediction type");
}

}  // namespace

int main() {
  Header header;
  for (int index = 0; std::fread(&header, sizeof header, 1, stdin) == 1; ++index) {
    try {
      run(header);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "case %d: %s\n", index, error.what());
      return 1;
    }
  }
}
