// Which devices there are, and whether this build has code for them.
#include "device.hpp"
#include "kernels.hpp"

namespace kltui::cuda {
namespace {

__global__ void idle_kernel() {}

}  // namespace

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();  // no driver or no device: not an error of later calls
        return 0;
    }
    return count;
}

int use_device(int device) {
    int before = 0;
    cudaError_t error = cudaGetDevice(&before);
    if (error == cudaSuccess && before != device) error = cudaSetDevice(device);
    return error == cudaSuccess ? before : -static_cast<int>(error);
}

bool has_code() {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, idle_kernel) == cudaSuccess) return true;
    cudaGetLastError();
    return false;
}

const char* describe_error(int error) {
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace kltui::cuda
