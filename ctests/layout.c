/* Size and offset of every public struct, as a C compiler sees it; src/capi asserts the same
 * numbers for Rust. They are part of the ABI. Compiling is the test. */
#include <stddef.h>

#include "check.h"

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "size of " #type)
#define PLACE(type, member, bytes) \
    _Static_assert(offsetof(type, member) == (bytes), "place of " #type "." #member)

SIZE(mc_status_t, 4);
SIZE(mc_segment_t, 8);
SIZE(mc_log_sink_t, 8);
_Static_assert((mc_status_t)-1 < 0, "a status has a sign");
_Static_assert((mc_segment_t)-1 > 0, "a segment has none");

SIZE(mc_engine_options_t, 72);
PLACE(mc_engine_options_t, struct_size, 0);
PLACE(mc_engine_options_t, reserved, 4);
PLACE(mc_engine_options_t, metadata, 8);
PLACE(mc_engine_options_t, local_name, 16);
PLACE(mc_engine_options_t, protocol, 24);
PLACE(mc_engine_options_t, bind_address, 32);
PLACE(mc_engine_options_t, rpc_port, 40);
PLACE(mc_engine_options_t, data_port, 42);
PLACE(mc_engine_options_t, io_threads, 44);
PLACE(mc_engine_options_t, lanes_per_peer, 48);
PLACE(mc_engine_options_t, transfer_timeout_ms, 52);
PLACE(mc_engine_options_t, spin_us, 56);
PLACE(mc_engine_options_t, json, 64);

SIZE(mc_buffer_t, 32);
PLACE(mc_buffer_t, address, 0);
PLACE(mc_buffer_t, length_bytes, 8);
PLACE(mc_buffer_t, location, 16);
PLACE(mc_buffer_t, access, 24);
PLACE(mc_buffer_t, reserved, 28);

SIZE(mc_segment_buffer_t, 80);
PLACE(mc_segment_buffer_t, address, 0);
PLACE(mc_segment_buffer_t, length_bytes, 8);
PLACE(mc_segment_buffer_t, location, 16);

SIZE(mc_request_t, 40);
PLACE(mc_request_t, operation, 0);
PLACE(mc_request_t, reserved, 4);
PLACE(mc_request_t, local, 8);
PLACE(mc_request_t, segment, 16);
PLACE(mc_request_t, remote_address, 24);
PLACE(mc_request_t, length_bytes, 32);

SIZE(mc_submit_options_t, 40);
PLACE(mc_submit_options_t, struct_size, 0);
PLACE(mc_submit_options_t, timeout_ms, 4);
PLACE(mc_submit_options_t, notify_name, 8);
PLACE(mc_submit_options_t, notify_name_len, 16);
PLACE(mc_submit_options_t, notify_message, 24);
PLACE(mc_submit_options_t, notify_message_len, 32);

SIZE(mc_batch_progress_t, 32);
PLACE(mc_batch_progress_t, submitted, 0);
PLACE(mc_batch_progress_t, completed, 8);
PLACE(mc_batch_progress_t, failed, 16);
PLACE(mc_batch_progress_t, transferred_bytes, 24);

SIZE(mc_task_status_t, 16);
PLACE(mc_task_status_t, state, 0);
PLACE(mc_task_status_t, status, 4);
PLACE(mc_task_status_t, transferred_bytes, 8);

SIZE(mc_metrics_t, 128);
PLACE(mc_metrics_t, struct_size, 0);
PLACE(mc_metrics_t, reserved, 4);
PLACE(mc_metrics_t, requests, 8);
PLACE(mc_metrics_t, requests_failed, 16);
PLACE(mc_metrics_t, written_bytes, 24);
PLACE(mc_metrics_t, read_bytes, 32);
PLACE(mc_metrics_t, received_bytes, 40);
PLACE(mc_metrics_t, served_bytes, 48);
PLACE(mc_metrics_t, retries, 56);
PLACE(mc_metrics_t, refreshes, 64);
PLACE(mc_metrics_t, connections_opened, 72);
PLACE(mc_metrics_t, connections_accepted, 80);
PLACE(mc_metrics_t, connections_refused, 88);
PLACE(mc_metrics_t, connections_serving, 96);
PLACE(mc_metrics_t, remote_requests_refused, 104);
PLACE(mc_metrics_t, notifications_received, 112);
PLACE(mc_metrics_t, notifications_dropped, 120);

int main(void) {
    check_tool();
    return check_end();
}
