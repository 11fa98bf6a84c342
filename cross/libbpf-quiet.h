/* Included before each source of libbpf (`cross/cargo`): what it tells for its own debugging stays out, as the guard shows
 * its warnings only. The header that defines the macro comes first, and is not read again. */
#include <sys/epoll.h>
#include "libbpf_internal.h"
#undef pr_debug
#define pr_debug(fmt, ...) do { if (0) __pr(LIBBPF_DEBUG, fmt, ##__VA_ARGS__); } while (0)
