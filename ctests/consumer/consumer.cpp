// The same in C++, with owners that destroy what they hold.
#include <mooncake.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(mc_status_t status) {
    if (status == MC_OK) return;
    std::string text(mc_last_error_message(nullptr, 0), '\0');
    mc_last_error_message(&text[0], text.size() + 1);
    throw std::runtime_error(std::string(mc_status_name(status)) + ": " + text);
}

struct Destroy {
    void operator()(mc_engine_t *engine) const { mc_engine_destroy(engine); }
    void operator()(mc_batch_t *batch) const { mc_batch_destroy(batch); }
};
using Engine = std::unique_ptr<mc_engine_t, Destroy>;
using Batch = std::unique_ptr<mc_batch_t, Destroy>;

Engine create() {
    mc_engine_options_t options{};
    options.struct_size = sizeof options;
    options.bind_address = "127.0.0.1";
    options.local_name = "127.0.0.1";
    mc_engine_t *engine = nullptr;
    check(mc_engine_create(&options, &engine));
    return Engine(engine);
}

void expose(const Engine &engine, std::vector<unsigned char> &memory) {
    mc_buffer_t buffer{};
    buffer.address = memory.data();
    buffer.length_bytes = memory.size();
    check(mc_buffer_register(engine.get(), &buffer));
}

}  // namespace

int main() try {
    std::vector<unsigned char> source(1 << 20, 7);
    std::vector<unsigned char> target(1 << 20, 0);
    Engine us = create();
    Engine peer = create();
    expose(us, source);
    expose(peer, target);

    char name[256];
    mc_segment_t segment = 0;
    check(mc_engine_local_name(peer.get(), name, sizeof name, nullptr));
    check(mc_segment_open(us.get(), name, &segment));

    mc_batch_t *raw = nullptr;
    check(mc_batch_create(us.get(), 1, &raw));
    Batch batch(raw);
    mc_request_t request{};
    request.operation = MC_WRITE;
    request.local = source.data();
    request.segment = segment;
    request.remote_address = reinterpret_cast<std::uintptr_t>(target.data());
    request.length_bytes = source.size();
    check(mc_batch_submit(batch.get(), &request, 1));
    check(mc_batch_wait(batch.get(), 20000, nullptr));
    if (source != target) return 3;

    try {
        check(mc_segment_open(us.get(), "127.0.0.1:1", &segment));
        return 4;
    } catch (const std::runtime_error &error) {
        std::printf("as expected: %s\n", error.what());
    }
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
