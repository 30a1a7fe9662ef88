// The emulated device: one block at a time, its threads as fibres (ucontext) of one thread of the processor.
// A fibre is begun by ucontext; from then on a jump is enough, which asks nothing of the system. Sanitizers
// want the former alone.
#include "cuda_emulation.hpp"

#include <ucontext.h>

#include <csetjmp>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#    include <sanitizer/asan_interface.h>
#    include <sanitizer/common_interface_defs.h>
#endif

namespace kltui::emulated {

dim3 thread_index, block_index, grid_size;

namespace {

constexpr size_t kStack = 64 * 1024;
constexpr int kStuck = 9001;

enum class State { ready, at_warp_barrier, at_block_barrier, returned };

struct Fibre {
    ucontext_t context;
    jmp_buf jump;
    bool begun = false;
    std::unique_ptr<char[]> stack{new char[kStack]};
    State state = State::ready;
    unsigned exchanges = 0;
    void* fake_stack = nullptr;
};

std::vector<Fibre> fibres;
Fibre* running = nullptr;
const std::function<void()>* body = nullptr;
// Lanes of one warp may be one exchange apart, never two: two sets of slots are enough.
std::vector<uint64_t> slots[2];
// FILE:LINE of the barrier that is left out, "" for none: as it is when a kernel starts.
std::string left_out;

#ifdef __SANITIZE_ADDRESS__
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;
void leaving(void** fake, const void* bottom, size_t size) {
    __sanitizer_start_switch_fiber(fake, bottom, size);
}
void arrived(void* fake, const void** bottom, size_t* size) {
    __sanitizer_finish_switch_fiber(fake, bottom, size);
}
void forget(const void* stack) {
    __asan_unpoison_memory_region(stack, kStack);
}
#else
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;
void leaving(void**, const void*, size_t) {}
void arrived(void*, const void**, size_t*) {}
void forget(const void*) {}
#endif

#ifdef __SANITIZE_ADDRESS__
ucontext_t scheduler;
void to_scheduler(Fibre& self) {
    swapcontext(&self.context, &scheduler);
}
void to_fibre(Fibre& fibre) {
    swapcontext(&scheduler, &fibre.context);
}
#else
jmp_buf scheduler_jump;
void to_scheduler(Fibre& self) {
    if (_setjmp(self.jump) == 0) _longjmp(scheduler_jump, 1);
}
void to_fibre(Fibre& fibre) {
    if (_setjmp(scheduler_jump) != 0) return;
    if (fibre.begun) _longjmp(fibre.jump, 1);
    fibre.begun = true;
    setcontext(&fibre.context);
}
#endif

void enter() {
    arrived(nullptr, &scheduler_stack, &scheduler_size);
    (*body)();
    running->state = State::returned;
    leaving(nullptr, scheduler_stack, scheduler_size);  // no stack to come back to
    to_scheduler(*running);
}

void give_way(State state) {
    Fibre& self = *running;
    self.state = state;
    leaving(&self.fake_stack, scheduler_stack, scheduler_size);
    to_scheduler(self);
    arrived(self.fake_stack, &scheduler_stack, &scheduler_size);
}

void resume(unsigned index) {
    Fibre& fibre = fibres[index];
    running = &fibre;
    thread_index = dim3(index, 0, 0);
    void* fake = nullptr;
    leaving(&fake, fibre.stack.get(), kStack);
    to_fibre(fibre);
    arrived(fake, nullptr, nullptr);
}

// Lets go the threads [from, to) that wait where `state` says, once all that have not returned do; whether it
// did.
bool release(size_t from, size_t to, State state) {
    const auto waits = [&](const Fibre& f) { return f.state == state; };
    const auto over = [&](const Fibre& f) { return f.state == state || f.state == State::returned; };
    const auto first = fibres.begin() + static_cast<long>(from),
               last = fibres.begin() + static_cast<long>(to);
    if (!std::all_of(first, last, over) || std::none_of(first, last, waits)) return false;
    // a shuffle or a warp's barrier names all 32 lanes: none may have returned
    if (state == State::at_warp_barrier && !std::all_of(first, last, waits)) return false;
    std::for_each(first, last, [&](Fibre& f) {
        if (waits(f)) f.state = State::ready;
    });
    return true;
}

bool release_any() {
    bool any = release(0, fibres.size(), State::at_block_barrier);
    for (size_t warp = 0; warp < fibres.size(); warp += 32)
        any |= release(warp, std::min(warp + 32, fibres.size()), State::at_warp_barrier);
    return any;
}

void prepare(unsigned threads) {
    if (fibres.size() != threads) fibres = std::vector<Fibre>(threads);
    slots[0].assign(threads, 0);
    slots[1].assign(threads, 0);
}

void restart(Fibre& fibre) {
    forget(fibre.stack.get());  // what the last thread on this stack has left on it
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    fibre.state = State::ready;
    fibre.begun = false;
    fibre.exchanges = 0;
    makecontext(&fibre.context, enter, 0);
}

int run_block(const std::vector<unsigned>& order) {
    for (Fibre& fibre : fibres)
        restart(fibre);
    do {
        for (unsigned index : order)
            if (fibres[index].state == State::ready) resume(index);
    } while (release_any());
    const bool whole =
        std::all_of(fibres.begin(), fibres.end(), [](const Fibre& f) { return f.state == State::returned; });
    return whole ? 0 : kStuck;
}

std::vector<unsigned> thread_order(unsigned threads) {
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; ++i)
        order[i] = i;
    const char* seed = std::getenv("KLTUI_EMULATED_ORDER");
    if (seed != nullptr)
        std::shuffle(order.begin(), order.end(), std::mt19937(std::strtoul(seed, nullptr, 10)));
    return order;
}

bool is_left_out(const std::source_location& place) {
    const std::string_view path = place.file_name();
    const std::string_view file = path.substr(path.rfind('/') + 1);
    return left_out == std::string(file) + ":" + std::to_string(place.line());
}

}  // namespace

void wait_for_block(const std::source_location& place) {
    if (!left_out.empty() && is_left_out(place)) return;
    give_way(State::at_block_barrier);
}

void wait_for_warp() {
    give_way(State::at_warp_barrier);
}

uint64_t exchange(uint64_t mine, unsigned lane) {
    Fibre& self = *running;
    const unsigned index = thread_index.x, set = self.exchanges++ % 2;
    slots[set][index] = mine;
    wait_for_warp();
    return slots[set][index / 32 * 32 + lane];
}

int run(const std::function<void()>& kernel, dim3 grid, unsigned threads) {
    body = &kernel;
    grid_size = grid;
    prepare(threads);
    const char* without = std::getenv("KLTUI_EMULATED_WITHOUT");
    left_out = without == nullptr ? "" : without;
    const std::vector<unsigned> order = thread_order(threads);
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                block_index = dim3(x, y, z);
                if (const int error = run_block(order)) return error;
            }
    return 0;
}

}  // namespace kltui::emulated

const char* cudaGetErrorString(cudaError_t error) {
    return error == kltui::emulated::kStuck ? "part of a block waits for threads that never come"
                                            : "unknown error";
}
