/* Loading at run time: nothing starts by loading, closing does not crash, loading again works. The
 * path of the library is the only argument; the program is not linked to it. */
#include <dlfcn.h>

#include "check.h"

typedef mc_status_t (*create_t)(const mc_engine_options_t *, mc_engine_t **);
typedef mc_status_t (*destroy_t)(mc_engine_t *);
typedef uint32_t (*abi_t)(void);

/* ISO C has no conversion from an object pointer to a function pointer. */
static void find(void *library, const char *name, void *place, size_t size) {
    void *symbol = dlsym(library, name);
    if (symbol == NULL) {
        check_failed(__FILE__, __LINE__, "no %s", name);
        exit(1);
    }
    memcpy(place, &symbol, size);
}

int main(int count, char **arguments) {
    int round;
    int descriptors;
    check_tool();
    if (count != 2) return 2;
    CHECK(check_lines_with("/proc/self/maps", "libmooncake") == 0);
    descriptors = check_open_descriptors();
    for (round = 0; round < 3; round++) {
        abi_t abi_version;
        create_t create;
        destroy_t destroy;
        mc_engine_t *engine = NULL;
        mc_engine_options_t options = check_options("tcp");
        void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            check_failed(__FILE__, __LINE__, "%s", dlerror());
            return 1;
        }
        CHECK(check_threads() == 1);
        CHECK(check_open_descriptors() == descriptors);
        find(library, "mc_abi_version", &abi_version, sizeof abi_version);
        find(library, "mc_engine_create", &create, sizeof create);
        find(library, "mc_engine_destroy", &destroy, sizeof destroy);
        CHECK(abi_version() == MC_ABI_VERSION);
        CHECK(create(&options, &engine) == MC_OK);
        CHECK(destroy(engine) == MC_OK);
        CHECK(check_threads() == 1);
        if (round == 1) {
            /* Closed with a living engine: the library stays, and so do its threads. */
            CHECK(create(&options, &engine) == MC_OK);
            CHECK(dlclose(library) == 0);
            CHECK(check_lines_with("/proc/self/maps", "libmooncake") > 0);
            usleep(20000);
            CHECK(destroy(engine) == MC_OK);
        } else {
            CHECK(dlclose(library) == 0);
        }
        CHECK(check_threads() == 1);
    }
    CHECK(dlopen("libmooncake-that-is-not-there.so", RTLD_NOW) == NULL);
    return check_end();
}
