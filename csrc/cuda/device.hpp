// What the kernels' sources need to compile: CUDA itself, or, as plain C++ for the tests, its emulation, in
// which a block's threads are fibres (tests/kernels/emulated). `launch` is the one place where kernels are
// started.
#pragma once

#ifdef __CUDACC__

#    include <cuda_bf16.h>
#    include <cuda_fp16.h>

namespace kltui::cuda {

// Queues a kernel on the caller's stream; cudaError_t's number.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void* stream, Arguments... arguments) {
    kernel<<<grid, static_cast<unsigned>(threads), 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace kltui::cuda

#else
#    include "cuda_emulation.hpp"
#endif
