/* sleep SECONDS, as a program of its own: see ../image. */
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    return argc == 2 ? (int)sleep((unsigned)atoi(argv[1])) : 2;
}
