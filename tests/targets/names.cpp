// Functions whose source names have more than letters and scopes: letters beyond ASCII, a literal
// operator, lambdas of a const member function.
#include "oracle.h"

// JSON has names as they are here.
ORACLE_NAMED(names_literal, "operator\\\"\\\"_parsecs(unsigned long long)");
ORACLE_NAMED(names_letters, "größen::Maß::fläche(unsigned long) const");
ORACLE_NAMED(names_first, "größen::Maß::beide(unsigned long) const::{lambda(unsigned long)#1}::operator()(unsigned long) const");
ORACLE_NAMED(names_second, "größen::Maß::beide(unsigned long) const::{lambda(unsigned long)#2}::operator()(unsigned long) const");

static thread_local uint64_t last;

PROBED uint64_t operator""_parsecs(unsigned long long x)
{
    ENTER(names_literal);
    last = oracle_mix(x);
    LEAVE(names_literal);
    return last;
}

namespace größen {

struct Maß {
    uint64_t seite;
    PROBED uint64_t fläche(uint64_t x) const;
    PROBED uint64_t beide(uint64_t x) const;
};

uint64_t Maß::fläche(uint64_t x) const
{
    ENTER(names_letters);
    last = oracle_mix(seite * x);
    LEAVE(names_letters);
    return last;
}

uint64_t Maß::beide(uint64_t x) const
{
    auto first = [this](uint64_t y) PROBED {
        ENTER(names_first);
        last = oracle_mix(seite + y);
        LEAVE(names_first);
        return last;
    };
    auto second = [this](uint64_t y) PROBED {
        ENTER(names_second);
        last = oracle_mix(seite - y);
        LEAVE(names_second);
        return last;
    };
    // The second is called twice as often.
    return first(x) + second(x) + second(x + 1);
}

} // namespace größen

static void loop(int thread)
{
    größen::Maß maß{7};
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn * 2 + static_cast<uint64_t>(thread);
        EXPECT("literal", oracle_mix(12), 12_parsecs);
        EXPECT("letters", oracle_mix(7 * x), maß.fläche(x));
        EXPECT("both", oracle_mix(7 + x) + oracle_mix(7 - x) + oracle_mix(7 - x - 1), maß.beide(x));
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
