#include "isa.hpp"

#include <cstdlib>
#include <stdexcept>

namespace kltui {

namespace portable {
extern const Kernels table;
}
#ifdef KLTUI_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

std::vector<const Kernels*> supported_tables() {
    std::vector<const Kernels*> tables{&portable::table};
#ifdef KLTUI_X86
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
    if (has_avx2) tables.push_back(&avx2::table);
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (has_avx2 && has_avx512) tables.push_back(&avx512::table);
#endif
    return tables;
}

const Kernels& choose() {
    const auto tables = supported_tables();
    const char* wanted = std::getenv("KLTUI_ISA");
    if (wanted == nullptr || *wanted == '\0') return *tables.back();
    std::string known;
    for (const Kernels* table : tables) {
        if (std::string(wanted) == table->name) return *table;
        known += (known.empty() ? "" : ", ") + std::string(table->name);
    }
    throw std::invalid_argument("KLTUI_ISA=" + std::string(wanted) + " cannot run here; choose one of " +
                                known);
}

}  // namespace

const Kernels& active_kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Kernels* table : supported_tables())
        names.emplace_back(table->name);
    return names;
}

bool cpu_has_bf16_products() {
#ifdef KLTUI_X86
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

}  // namespace kltui
