/* The smallest whole program: one engine, its own segment, bytes there and back. */
#include <mooncake.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define TRY(call)                                                                \
    do {                                                                         \
        mc_status_t status = (call);                                             \
        if (status != MC_OK) {                                                   \
            char text[512];                                                      \
            mc_last_error_message(text, sizeof text);                            \
            fprintf(stderr, "%s: %s: %s\n", #call, mc_status_name(status), text); \
            return 1;                                                            \
        }                                                                        \
    } while (0)

static char memory[2][64] = {"moved by mooncake", ""};

int main(void) {
    mc_engine_options_t options = {0};
    mc_engine_t *engine;
    mc_segment_t own;
    mc_buffer_t buffer = {0};
    char name[256];
    options.struct_size = sizeof options;
    options.bind_address = "127.0.0.1";
    options.local_name = "127.0.0.1";
    buffer.address = memory;
    buffer.length_bytes = sizeof memory;

    if (mc_abi_version() != MC_ABI_VERSION) return 2;
    TRY(mc_engine_create(&options, &engine));
    TRY(mc_buffer_register(engine, &buffer));
    TRY(mc_engine_local_name(engine, name, sizeof name, NULL));
    TRY(mc_segment_open(engine, name, &own));
    TRY(mc_write(engine, own, memory[0], (uint64_t)(uintptr_t)memory[1], sizeof memory[0], 0));
    TRY(mc_engine_destroy(engine));
    printf("%s %s: %s\n", name, mc_version_string(), memory[1]);
    return strcmp(memory[0], memory[1]) == 0 ? 0 : 3;
}
