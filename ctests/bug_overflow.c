/* Writes behind a block on purpose: a tool that does not notice is not running. */
#include <stdlib.h>

int main(int count, char **arguments) {
    char *volatile block = (char *)malloc(8);
    (void)arguments;
    block[7 + count] = 1;
    free((void *)block);
    return 0;
}
