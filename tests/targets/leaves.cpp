/* Functions of known durations, log-uniform between 100 us and 10 ms, that exceptions leave:
 * through a destructor, which takes its part of the time, and by rethrowing. Every fourth call
 * returns. The oracle's clock stops at the end of the clean-up. `middle` has nothing to clean
 * up. */
#include "oracle.h"

#include <cmath>

ORACLE_NAMED(leaves_cleans, "leaves::cleans");
ORACLE_NAMED(leaves_again, "leaves::again");
ORACLE_NAMED(leaves_middle, "leaves::middle");

namespace leaves {

/* Computes for a while longer, and reports the total time. */
struct Timer {
    struct oracle_function *function;
    uint64_t more;
    uint64_t start = oracle_now();
    ~Timer()
    {
        oracle_spin(more);
        oracle_record(function, oracle_now() - start);
    }
};

PROBED uint64_t middle(uint64_t ns, bool fails)
{
    ENTER(leaves_middle);
    if (fails) {
        UNWOUND(leaves_middle);
        throw ns;
    }
    LEAVE(leaves_middle);
    return ns;
}

PROBED uint64_t cleans(uint64_t ns, bool fails)
{
    Timer timer{&of_leaves_cleans, ns / 4};
    ENTER(leaves_cleans);
    oracle_spin(ns - ns / 4);
    if (fails) UNWOUND(leaves_cleans);
    uint64_t y = middle(ns, fails) + 1;
    LEAVE(leaves_cleans);
    return y;
}

PROBED uint64_t again(uint64_t ns, bool fails)
{
    uint64_t start = oracle_now();
    ENTER(leaves_again);
    try {
        oracle_spin(ns / 2);
        uint64_t y = middle(ns, fails) + 1;
        oracle_spin(ns - ns / 2);
        LEAVE(leaves_again);
        oracle_record(&of_leaves_again, oracle_now() - start);
        return y;
    } catch (...) {
        oracle_spin(ns - ns / 2);
        UNWOUND(leaves_again);
        oracle_record(&of_leaves_again, oracle_now() - start);
        throw;
    }
}

} // namespace leaves

static void loop(int thread)
{
    uint64_t random = static_cast<uint64_t>(thread);
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        random = oracle_mix(random);
        double part = static_cast<double>(random >> 11) / 9007199254740992.0;
        uint64_t ns = static_cast<uint64_t>(1e5 * std::pow(100.0, part)), found;
        bool fails = turn / 2 % 4 != 3;
        try {
            found = turn % 2 ? leaves::again(ns, fails) : leaves::cleans(ns, fails);
        } catch (uint64_t thrown) {
            found = thrown;
        }
        EXPECT("what came back", ns + !fails, found);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
