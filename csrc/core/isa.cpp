#include "isa.hpp"

#include <cstdlib>
#include <stdexcept>

#ifdef KLTUI_AMX
#    include <cpuid.h>
#    include <sys/syscall.h>
#    include <unistd.h>
#endif

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
#    ifdef KLTUI_AMX
void head_logprobs_amx(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                       float* workspace, int threads);
#    endif
}  // namespace avx512
#endif

namespace {

#ifdef KLTUI_AMX
bool cpu_has_bf16_tiles() {
    unsigned int a, b, c, d;
    constexpr unsigned int kProducts = 1u << 22, kTiles = 1u << 24;  // AMX-BF16, AMX-TILE
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kProducts) != 0 && (d & kTiles) != 0;
}

// Linux keeps the tiles' registers from a process until it asks for them, once for all of its threads.
bool tiles_are_granted() {
    constexpr long kAskForPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted =
        cpu_has_bf16_tiles() && syscall(SYS_arch_prctl, kAskForPermission, kTileData) == 0;
    return granted;
}

// AVX-512's, but for what tiles do.
const Kernels& amx_table() {
    static const Kernels table = [] {
        Kernels made = avx512::table;
        made.name = "amx";
        made.head_logprobs_bf16 = avx512::head_logprobs_amx;
        return made;
    }();
    return table;
}
#endif

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
#    ifdef KLTUI_AMX
    if (has_avx2 && has_avx512 && tiles_are_granted()) tables.push_back(&amx_table());
#    endif
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
