// The choice of instruction set: the best that the processor runs, or less when KLTUI_ISA says so.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace kltui {

// The table in use. Chosen once; KLTUI_ISA=portable|avx2|avx512|amx forces it down, an unknown or unsupported
// name throws.
const Kernels& active_kernels();

// Names of the instruction sets that this build holds and this processor runs, slowest first.
std::vector<std::string> supported_isas();

bool cpu_has_bf16_products();

}  // namespace kltui
