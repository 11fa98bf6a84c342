// Objects that are made and deleted: the compiler makes a destructor that calls the other one and
// also frees the object.
#include "oracle.h"

ORACLE_NAMED(destroys_session, "destroys::Session::~Session()");

namespace destroys {

struct Session {
    uint64_t number;
    explicit Session(uint64_t x) : number(x) {}
    PROBED virtual ~Session();
};

static thread_local uint64_t last;

Session::~Session()
{
    ENTER(destroys_session);
    last = oracle_mix(number);
    LEAVE(destroys_session);
}

__attribute__((noipa)) static Session *make(uint64_t x) { return new Session(x); }

} // namespace destroys

static void loop(int thread)
{
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn * 2 + static_cast<uint64_t>(thread);
        delete destroys::make(x);
        EXPECT("last", oracle_mix(x), destroys::last);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
