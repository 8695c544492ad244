/* What every test program needs: checks that print where they fail, skipping, and small helpers to
 * set up engines. Include it once per program. */
#ifndef MOONCAKE_CTESTS_CHECK_H
#define MOONCAKE_CTESTS_CHECK_H

#include <dirent.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mooncake.h"

/* CTest counts this exit status as skipped. */
#define CHECK_SKIPPED 77

static int check_failures;

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static void check_failed(const char *file, int line, const char *format, ...) {
    va_list arguments;
    check_failures++;
    fprintf(stderr, "%s:%d: ", file, line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static inline const char *check_last_error(void) {
    static char text[1024];
    mc_last_error_message(text, sizeof text);
    return text;
}

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) check_failed(__FILE__, __LINE__, "not so: %s", #condition); \
    } while (0)

/* The call has this status. */
#define CHECK_STATUS(expected, call)                                                    \
    do {                                                                                \
        mc_status_t check_status_ = (call);                                             \
        if (check_status_ != (expected))                                                \
            check_failed(__FILE__, __LINE__, "%s gave %s, not %s (last error: %s)", #call, \
                         mc_status_name(check_status_), mc_status_name(expected),       \
                         check_last_error());                                           \
    } while (0)

#define CHECK_OK(call) CHECK_STATUS(MC_OK, call)

/* As CHECK_STATUS, and going on makes no sense otherwise. */
#define REQUIRE_OK(call)                                   \
    do {                                                   \
        int check_before_ = check_failures;                \
        CHECK_OK(call);                                    \
        if (check_failures != check_before_) exit(1);      \
    } while (0)

/* The last error of this thread has this in it. */
#define CHECK_SAYS(words)                                                         \
    do {                                                                          \
        if (strstr(check_last_error(), (words)) == NULL)                          \
            check_failed(__FILE__, __LINE__, "\"%s\" does not say \"%s\"",        \
                         check_last_error(), (words));                            \
    } while (0)

static inline void check_skip(const char *reason) {
    printf("SKIPPED: %s\n", reason);
    exit(CHECK_SKIPPED);
}

/* ---- Tools ---------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__)
#define CHECK_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECK_HAS_ASAN 1
#endif
#endif
#ifndef CHECK_HAS_ASAN
#define CHECK_HAS_ASAN 0
#endif

/* How often a text occurs in the lines of a file. */
static inline int check_lines_with(const char *path, const char *words) {
    char line[1024];
    int found = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL) found += strstr(line, words) != NULL;
    fclose(file);
    return found;
}

/* A run "under a tool" that is not under it proves nothing: CTest says which one it promised. */
static inline void check_tool(void) {
    const char *tool = getenv("CHECK_TOOL");
    if (tool == NULL || tool[0] == '\0') return;
    if (strcmp(tool, "asan") == 0) {
        if (!CHECK_HAS_ASAN) check_failed(__FILE__, __LINE__, "built without AddressSanitizer");
    } else if (strcmp(tool, "valgrind") == 0) {
        if (check_lines_with("/proc/self/maps", "vgpreload_memcheck") == 0)
            check_failed(__FILE__, __LINE__, "memcheck is not loaded");
    } else {
        check_failed(__FILE__, __LINE__, "unknown tool %s", tool);
    }
}

/* True where a tool makes everything slower; only ever used to do less of the same. */
static inline int check_is_slow(void) {
    const char *tool = getenv("CHECK_TOOL");
    return tool != NULL && strcmp(tool, "valgrind") == 0;
}

/* Ends a program: main returns this. */
static inline int check_end(void) {
    if (check_failures != 0) fprintf(stderr, "%d checks failed\n", check_failures);
    return check_failures == 0 ? 0 : 1;
}

/* ---- What a process holds -------------------------------------------------------------------- */

static inline int check_count_entries(const char *path) {
    int count = 0;
    struct dirent *entry;
    DIR *folder = opendir(path);
    if (folder == NULL) return -1;
    while ((entry = readdir(folder)) != NULL) count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

/* Without the descriptor that reads the folder. */
static inline int check_open_descriptors(void) { return check_count_entries("/proc/self/fd") - 1; }

static inline int check_threads(void) { return check_count_entries("/proc/self/task"); }

/* ---- Engines --------------------------------------------------------------------------------- */

static inline mc_engine_options_t check_options(const char *protocol) {
    mc_engine_options_t options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.protocol = protocol;
    options.local_name = "127.0.0.1";
    options.bind_address = "127.0.0.1";
    options.transfer_timeout_ms = 20000;
    return options;
}

static inline mc_engine_t *check_engine(const char *protocol) {
    mc_engine_options_t options = check_options(protocol);
    mc_engine_t *engine = NULL;
    REQUIRE_OK(mc_engine_create(&options, &engine));
    return engine;
}

static inline void check_register(mc_engine_t *engine, void *address, size_t length_bytes,
                                  uint32_t access) {
    mc_buffer_t buffer;
    memset(&buffer, 0, sizeof buffer);
    buffer.address = address;
    buffer.length_bytes = length_bytes;
    buffer.access = access;
    REQUIRE_OK(mc_buffer_register(engine, &buffer));
}

/* Opens the segment of one engine in another. */
static inline mc_segment_t check_open(mc_engine_t *engine, mc_engine_t *peer) {
    char name[256];
    mc_segment_t segment = 0;
    REQUIRE_OK(mc_engine_local_name(peer, name, sizeof name, NULL));
    REQUIRE_OK(mc_segment_open(engine, name, &segment));
    return segment;
}

static inline uint64_t check_address(const void *pointer) {
    return (uint64_t)(uintptr_t)pointer;
}

static inline void check_fill(unsigned char *bytes, size_t length, unsigned seed) {
    size_t i;
    uint32_t state = seed * 2654435761u + 1u;
    for (i = 0; i < length; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (unsigned char)(state >> 24);
    }
}

static inline mc_request_t check_request(int32_t operation, void *local, mc_segment_t segment,
                                         const void *remote, size_t length_bytes) {
    mc_request_t request;
    memset(&request, 0, sizeof request);
    request.operation = operation;
    request.local = local;
    request.segment = segment;
    request.remote_address = check_address(remote);
    request.length_bytes = length_bytes;
    return request;
}

#endif
