/* The tightest loop that still has an oracle: for counts over many millions of calls. */
#include "oracle.h"

ORACLE(tick);

PROBED uint64_t tick(uint64_t x)
{
    ENTER(tick);
    x = x * 6364136223846793005u + 1442695040888963407u;
    LEAVE(tick);
    return x;
}

static void loop(int thread)
{
    uint64_t x = (uint64_t)thread, check = x;
    uint64_t batch = oracle_option("batch", 1000);
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        for (uint64_t i = 0; i < batch; i++) {
            x = tick(x);
            check = check * 6364136223846793005u + 1442695040888963407u;
        }
        EXPECT("tick", check, x);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
