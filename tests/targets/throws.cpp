// C++ exceptions through probed frames: thrown by one function, passing through another that has a
// destructor to run, caught in a third, or rethrown by a fourth.
#include "oracle.h"

#include <stdexcept>
#include <string>

ORACLE_NAMED(throws_thrower, "throws::thrower");
ORACLE_NAMED(throws_through, "throws::through");
ORACLE_NAMED(throws_rethrows, "throws::rethrows");
ORACLE_NAMED(throws_catcher, "throws::Catcher::run");

namespace throws {

static thread_local uint64_t guards;

struct Guard {
    uint64_t *counter;
    ~Guard() { ++*counter; }
};

// Throws when x is odd: a std::runtime_error, or an integer for every other odd x.
PROBED uint64_t thrower(uint64_t x)
{
    ENTER(throws_thrower);
    if (x & 1) {
        UNWOUND(throws_thrower);
        if (x & 2) throw std::runtime_error(std::to_string(x));
        throw x;
    }
    uint64_t y = oracle_mix(x);
    LEAVE(throws_thrower);
    return y;
}

// Has a destructor on the way: its landing pad runs and hands the exception on.
PROBED uint64_t through(uint64_t x)
{
    ENTER(throws_through);
    Guard guard{&guards};
    uint64_t y;
    if (x & 1) UNWOUND(throws_through);
    y = thrower(x) + 1;
    LEAVE(throws_through);
    return y;
}

// Catches and throws again.
PROBED uint64_t rethrows(uint64_t x)
{
    ENTER(throws_rethrows);
    try {
        uint64_t y = through(x) + 1;
        LEAVE(throws_rethrows);
        return y;
    } catch (...) {
        UNWOUND(throws_rethrows);
        throw;
    }
}

// A member function that always returns.
struct Catcher {
    uint64_t caught = 0;
    PROBED uint64_t run(uint64_t x)
    {
        ENTER(throws_catcher);
        uint64_t y;
        try {
            y = rethrows(x);
        } catch (const std::runtime_error &error) {
            caught++;
            y = std::stoull(error.what());
        } catch (uint64_t number) {
            caught++;
            y = number;
        }
        LEAVE(throws_catcher);
        return y;
    }
};

} // namespace throws

static void loop(int thread)
{
    throws::Catcher catcher;
    throws::guards = 0;
    uint64_t turn = 0, odd = 0;
    for (; oracle_next(turn); turn++) {
        uint64_t x = turn * 3 + static_cast<uint64_t>(thread);
        odd += x & 1;
        EXPECT("catcher", x & 1 ? x : oracle_mix(x) + 2, catcher.run(x));
    }
    EXPECT("caught", odd, catcher.caught);
    EXPECT("destructors", turn, throws::guards);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
