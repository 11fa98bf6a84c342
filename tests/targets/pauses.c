/* A program without a library, for kernels that run 32-bit programs on x86-64: it waits until it is killed. */
void _start(void)
{
    /* pause is number 29 of the 32-bit calls. */
    for (;;) __asm__ volatile("int $0x80" : : "a"(29) : "memory");
}
