/* Opens libraries with all their symbols bound: open_all LIBRARY… Ends with 1 where one cannot be opened. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    int failed = 0;
    for (int i = 1; i < count; i++) {
        if (!dlopen(arguments[i], RTLD_NOW)) {
            fprintf(stderr, "%s\n", dlerror());
            failed = 1;
        }
    }
    return failed;
}
