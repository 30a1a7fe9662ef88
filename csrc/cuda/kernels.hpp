// The CUDA kernels, as plain functions: device pointers and a stream in, nothing allocated, nothing
// synchronised. An error comes back as cudaError_t's number; 0 is success.
#pragma once

#include <cstdint>

namespace kltui::cuda {

enum class Float : int { f32 = 0, f16 = 1, bf16 = 2 };

struct Rows {
    const void* data;
    Float dtype;
    int64_t rows;
    int64_t columns;
    int64_t row_stride;  // elements
};

// Devices that can be used; 0 without a driver.
int device_count();

// Makes `device` current for the calling thread and returns the one that was, or minus the error.
int use_device(int device);

// Whether this build has machine code, or code to be made into it, for the current device.
bool has_code();

const char* describe_error(int error);

// out[r] = log softmax(softcap * tanh(scale * x / softcap))[target[r]]; softcap 0: no cap. A target outside
// [0, columns) gives NaN.
int log_softmax_gather(const Rows& logits, const int64_t* target, float scale, float softcap, float* out,
                       void* stream);

// Folds a tile, vocabulary entries [first, first + columns), into running rows; see the CPU's online_update.
int online_update(const Rows& tile, int64_t first, const int64_t* target, float scale, float softcap,
                  float* reference, double* sum, float* target_logit, void* stream);

// KL(p || q) and KL(q || p) of every row in nats, and whether the largest entries stand in the same place;
// see the CPU's kl_rows. p and q have one dtype and shape.
int kl_rows(const Rows& p, const Rows& q, double* forward, double* reverse, uint8_t* same_top, void* stream);

// sums[t] = sum of logp[i] where text_index[i] == t; text_index ascends.
int sum_by_text(const float* logp, const int64_t* text_index, int64_t count, int64_t texts, double* sums,
                void* stream);

// out = x - row mean - column mean + grand mean. `means` is scratch for rows + columns doubles.
int double_centre(const double* x, int64_t rows, int64_t columns, double* out, double* means, void* stream);

}  // namespace kltui::cuda
