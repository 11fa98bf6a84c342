// A program with a Python interpreter in it, whose evaluation loop is in a library: its arguments
// are those of `python3.13`. The library is opened rather than linked, to build without its
// headers.
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
    void *library = dlopen("libpython3.13.so.1.0", RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        fprintf(stderr, "embeds: %s\n", dlerror());
        return 1;
    }
    // Include/pylifecycle.h, 3.8 and later.
    int (*run)(int, char **) = (int (*)(int, char **))dlsym(library, "Py_BytesMain");
    return run ? run(argc, argv) : 1;
}
