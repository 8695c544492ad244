/* Leaks on purpose: a tool that does not notice is not running. */
#include <stdlib.h>

static void lose(void) {
    void *volatile lost = malloc(123);
    lost = NULL;
    (void)lost;
}

int main(void) {
    lose();
    /* Leaves no copy of the pointer where a conservative search could find it. */
    {
        volatile char stack[4096];
        size_t i;
        for (i = 0; i < sizeof stack; i++) stack[i] = 0;
    }
    return 0;
}
