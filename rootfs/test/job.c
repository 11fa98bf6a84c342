/* job COMMAND...: runs a command as a job of its own, as a shell with a terminal does. Signals of a terminal stop nothing in a
 * process group that has no parent outside of it (setpgid(2)), and that of all tests is such a one. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 2 || setpgid(0, 0)) return 125;
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    return 125;
}
