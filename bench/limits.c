/* What the machine itself can do: the figures every engine is held against.
 *
 * Two processes joined by one TCP connection over 127.0.0.1 with nothing but blocking send() and
 * recv(), in both directions; a request-and-reply exchange of one small block, and of a batch of
 * scattered small blocks that is gathered into one call; and memcpy by one core. The memory walked
 * is as large as the memory the engines register, so that no side profits from a warmer cache.
 *
 *   limits [--seconds S] [--region BYTES] [--blocks B,B,...] [--congestion NAME]
 *
 * Prints one JSON object per measurement. Starts one child per measurement and reaps it; runs for
 * a bounded time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    BLOCKS_MAX = 16,
    SAMPLES_MAX = 1 << 20,
    PING_BYTES = 4096,
    ACK_BYTES = 16,
    BATCH = 32,
    HEADER_BYTES = 24,
    BATCHES_IN_FLIGHT = 2,
    BATCHES_PREPARED = 256,
};

/* How a side waits for bytes: asleep in recv(), polling for ever, or polling and yielding for a
 * while and then asleep. */
enum wait_mode { WAIT_SLEEP, WAIT_SPIN, WAIT_BRIEF_SPIN, WAIT_MODES };
static const char *const wait_names[WAIT_MODES] = {"ping", "ping_spin", "ping_brief_spin"};
static const double brief_spin_seconds = 50e-6;

static double seconds_per_run = 0.5;
static size_t region_bytes = (size_t)256 << 20;
static size_t blocks[BLOCKS_MAX] = {4096, 65536, 1 << 20, 16 << 20, 64 << 20};
static size_t block_count = 5;
static const char *congestion = NULL;

/* What a child sends back over its pipe when it is done. */
struct child_report {
    uint64_t bytes;
    double cpu_seconds;
};

static void die(const char *what)
{
    fprintf(stderr, "limits: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
         + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static unsigned char *map_region(void)
{
    unsigned char *region =
        mmap(NULL, region_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        die("mmap");
    memset(region, 0x5a, region_bytes);
    /* A child maps its own: pages shared with it would be copied on the first write, inside the
     * measurement. */
    if (madvise(region, region_bytes, MADV_DONTFORK))
        die("madvise");
    return region;
}

/* A connected pair: the caller keeps one end, the child gets the other. */
static void connect_pair(int *left_out, int *right_out)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int left = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || left < 0)
        die("socket");
    if (congestion) {
        socklen_t size = (socklen_t)strlen(congestion);
        if (setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, congestion, size) ||
            setsockopt(left, IPPROTO_TCP, TCP_CONGESTION, congestion, size))
            die("TCP_CONGESTION");
    }
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&address, &length) ||
        connect(left, (struct sockaddr *)&address, sizeof address))
        die("connect");
    int right = accept(listener, NULL, NULL);
    if (right < 0)
        die("accept");
    close(listener);
    setsockopt(left, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(right, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    *left_out = left;
    *right_out = right;
}

/* Blocking exact transfers; 0 at the end of the stream. */
static int send_all(int fd, const unsigned char *data, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        data += sent;
        length -= (size_t)sent;
    }
    return 1;
}

static int recv_all(int fd, unsigned char *data, size_t length, enum wait_mode mode)
{
    double patience = mode == WAIT_BRIEF_SPIN ? now_seconds() + brief_spin_seconds : 0;
    while (length) {
        ssize_t got = recv(fd, data, length, mode == WAIT_SLEEP ? 0 : MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            /* Yielding matters when the other side waits for this very core. */
            if (mode == WAIT_BRIEF_SPIN && now_seconds() > patience)
                mode = WAIT_SLEEP;
            else if (mode == WAIT_BRIEF_SPIN)
                sched_yield();
            continue;
        }
        if (got <= 0)
            return 0;
        data += got;
        length -= (size_t)got;
    }
    return 1;
}

/* Sends blocks for the given time, then shuts the stream down; returns the bytes sent. */
static uint64_t pump(int fd, const unsigned char *region, size_t block, double limit_seconds)
{
    double end = now_seconds() + limit_seconds;
    uint64_t bytes = 0;
    size_t offset = 0;
    while (now_seconds() < end) {
        if (!send_all(fd, region + offset, block))
            break;
        bytes += block;
        offset += block;
        if (offset + block > region_bytes)
            offset = 0;
    }
    shutdown(fd, SHUT_WR);
    return bytes;
}

static uint64_t drain(int fd, unsigned char *region, size_t block)
{
    uint64_t bytes = 0;
    size_t offset = 0;
    while (recv_all(fd, region + offset, block, WAIT_SLEEP)) {
        bytes += block;
        offset += block;
        if (offset + block > region_bytes)
            offset = 0;
    }
    return bytes;
}

/* Returns 0 in the child, which has set up its memory before the parent goes on. */
static pid_t start_child(int report[2], unsigned char **child_region_out)
{
    char ready = 1;
    if (pipe(report))
        die("pipe");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        *child_region_out = map_region();
        if (write(report[1], &ready, 1) != 1)
            _exit(1);
    } else if (read(report[0], &ready, 1) != 1)
        die("child did not start");
    return child;
}

static struct child_report finish_child(pid_t child, int report[2])
{
    struct child_report result = {0, 0};
    close(report[1]);
    if (read(report[0], &result, sizeof result) != (ssize_t)sizeof result)
        die("child gave no report");
    close(report[0]);
    waitpid(child, NULL, 0);
    return result;
}

/* The parent is the initiator: it sends for a write and receives for a read. */
static void measure_stream(unsigned char *region, size_t block, int is_read)
{
    int mine, theirs, report[2];
    connect_pair(&mine, &theirs);
    unsigned char *child_region;
    pid_t child = start_child(report, &child_region);
    if (child == 0) {
        close(mine);
        double cpu = cpu_seconds();
        struct child_report result;
        result.bytes = is_read ? pump(theirs, child_region, block, seconds_per_run)
                               : drain(theirs, child_region, block);
        result.cpu_seconds = cpu_seconds() - cpu;
        _exit(write(report[1], &result, sizeof result) == (ssize_t)sizeof result ? 0 : 1);
    }
    close(theirs);
    double cpu = cpu_seconds(), start = now_seconds();
    uint64_t bytes = is_read ? drain(mine, region, block)
                             : pump(mine, region, block, seconds_per_run);
    /* The clock of a write stops when the other side has stored the last byte and closed. */
    unsigned char end;
    if (!is_read && recv(mine, &end, 1, 0) < 0)
        die("recv");
    double elapsed = now_seconds() - start;
    cpu = cpu_seconds() - cpu;
    close(mine);
    struct child_report other = finish_child(child, report);
    double gigabytes = (double)bytes * 1e-9;
    printf("{\"peer\": \"limit\", \"what\": \"socket\", \"op\": \"%s\", \"block_bytes\": %zu, "
           "\"gb_per_s\": %.4f, \"blocks_per_s\": %.1f, \"cpu_s_per_gb_initiator\": %.4f, "
           "\"cpu_s_per_gb_target\": %.4f}\n",
           is_read ? "read" : "write", block, gigabytes / elapsed,
           (double)bytes / (double)block / elapsed, cpu / gigabytes, other.cpu_seconds / gigabytes);
    fflush(stdout);
}

static int compare_u32(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* One block one way and a small reply back: the least that any acknowledged request costs. */
static void measure_ping(unsigned char *region, int is_read, enum wait_mode mode)
{
    int mine, theirs, report[2];
    size_t out = is_read ? ACK_BYTES : PING_BYTES, back = is_read ? PING_BYTES : ACK_BYTES;
    connect_pair(&mine, &theirs);
    unsigned char *child_region;
    pid_t child = start_child(report, &child_region);
    if (child == 0) {
        close(mine);
        struct child_report result = {0, 0};
        while (recv_all(theirs, child_region, out, mode) && send_all(theirs, child_region, back))
            result.bytes++;
        _exit(write(report[1], &result, sizeof result) == (ssize_t)sizeof result ? 0 : 1);
    }
    close(theirs);
    uint32_t *samples_ns = malloc(SAMPLES_MAX * sizeof *samples_ns);
    if (!samples_ns)
        die("malloc");
    size_t count = 0;
    double end = now_seconds() + seconds_per_run, before = now_seconds();
    while (before < end && count < SAMPLES_MAX) {
        if (!send_all(mine, region, out) || !recv_all(mine, region, back, mode))
            die("exchange");
        double after = now_seconds();
        samples_ns[count++] = (uint32_t)((after - before) * 1e9);
        before = after;
    }
    close(mine);
    finish_child(child, report);
    qsort(samples_ns, count, sizeof *samples_ns, compare_u32);
    printf("{\"peer\": \"limit\", \"what\": \"%s\", \"op\": \"%s\", \"block_bytes\": %d, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"operations\": %zu}\n",
           wait_names[mode], is_read ? "read" : "write", PING_BYTES, samples_ns[count / 2] * 1e-3,
           samples_ns[count * 99 / 100] * 1e-3, count);
    fflush(stdout);
    free(samples_ns);
}

/* Moves all of `parts` in as few calls as the kernel allows; 0 at the end of the stream. */
static int move_parts(int fd, struct iovec *parts, size_t count, int sending)
{
    double patience = now_seconds() + brief_spin_seconds;
    while (count) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        int flags = now_seconds() < patience ? MSG_DONTWAIT : 0;
        ssize_t moved = sending ? sendmsg(fd, &message, flags | MSG_NOSIGNAL)
                                : recvmsg(fd, &message, flags);
        if (moved < 0 && errno == EAGAIN) {
            sched_yield();
            continue;
        }
        if (moved <= 0)
            return 0;
        patience = now_seconds() + brief_spin_seconds;
        size_t left = (size_t)moved;
        while (count && left >= parts->iov_len) {
            left -= parts->iov_len;
            parts++;
            count--;
        }
        if (count) {
            parts->iov_base = (unsigned char *)parts->iov_base + left;
            parts->iov_len -= left;
        }
    }
    return 1;
}

/* The blocks of one batch, far from each other, as a block table would have them; as many different
 * ones as the drivers of the engines use. */
static void scatter(struct iovec *parts, unsigned char *region, size_t turn)
{
    size_t slots = region_bytes / PING_BYTES;
    for (size_t i = 0; i < BATCH; i++) {
        size_t slot = (turn % BATCHES_PREPARED * BATCH + i) * 7919 % slots;
        parts[i] = (struct iovec){region + slot * PING_BYTES, PING_BYTES};
    }
}

/* One side of the exchange of batches; all headers travel in front of all blocks. */
static int move_batch(int fd, unsigned char *region, size_t turn, int is_read, int is_initiator)
{
    unsigned char headers[BATCH * HEADER_BYTES] = {0}, ack[ACK_BYTES] = {0};
    struct iovec parts[BATCH + 1];
    scatter(parts + 1, region, turn);
    parts[0] = (struct iovec){is_read ? ack : headers, is_read ? ACK_BYTES : sizeof headers};
    /* A read's blocks come back with the reply; a write's go out with the headers. */
    if (is_initiator && is_read)
        return move_parts(fd, parts, BATCH + 1, 0);
    if (is_initiator)
        return recv_all(fd, ack, ACK_BYTES, WAIT_BRIEF_SPIN);
    if (is_read)
        return recv_all(fd, headers, sizeof headers, WAIT_BRIEF_SPIN) &&
               move_parts(fd, parts, BATCH + 1, 1);
    return recv_all(fd, headers, sizeof headers, WAIT_BRIEF_SPIN) &&
           move_parts(fd, parts + 1, BATCH, 0) && send_all(fd, ack, ACK_BYTES);
}

static int post_batch(int fd, unsigned char *region, size_t turn, int is_read)
{
    unsigned char headers[BATCH * HEADER_BYTES] = {0};
    struct iovec parts[BATCH + 1];
    scatter(parts + 1, region, turn);
    parts[0] = (struct iovec){headers, sizeof headers};
    return move_parts(fd, parts, is_read ? 1 : BATCH + 1, 1);
}

static void measure_gather(unsigned char *region, int is_read)
{
    int mine, theirs, report[2];
    unsigned char *child_region;
    connect_pair(&mine, &theirs);
    pid_t child = start_child(report, &child_region);
    if (child == 0) {
        close(mine);
        double cpu = cpu_seconds();
        struct child_report result = {0, 0};
        while (move_batch(theirs, child_region, result.bytes, is_read, 0))
            result.bytes++;
        result.cpu_seconds = cpu_seconds() - cpu;
        _exit(write(report[1], &result, sizeof result) == (ssize_t)sizeof result ? 0 : 1);
    }
    close(theirs);
    double cpu = cpu_seconds(), start = now_seconds(), end = start + seconds_per_run;
    size_t posted = 0, done = 0;
    while (now_seconds() < end || done < posted) {
        while (posted - done < BATCHES_IN_FLIGHT && now_seconds() < end)
            if (!post_batch(mine, region, posted++, is_read))
                die("post");
        if (done < posted && !move_batch(mine, region, done++, is_read, 1))
            die("exchange");
    }
    double elapsed = now_seconds() - start;
    cpu = cpu_seconds() - cpu;
    close(mine);
    struct child_report other = finish_child(child, report);
    double gigabytes = (double)done * BATCH * PING_BYTES * 1e-9;
    printf("{\"peer\": \"limit\", \"what\": \"gather\", \"op\": \"%s\", \"block_bytes\": %d, "
           "\"gb_per_s\": %.4f, \"blocks_per_s\": %.1f, \"cpu_s_per_gb_initiator\": %.4f, "
           "\"cpu_s_per_gb_target\": %.4f}\n",
           is_read ? "read" : "write", PING_BYTES, gigabytes / elapsed,
           (double)done * BATCH / elapsed, cpu / gigabytes, other.cpu_seconds / gigabytes);
    fflush(stdout);
}

static void measure_memcpy(unsigned char *source, size_t block)
{
    unsigned char *target = map_region();
    double start = now_seconds(), elapsed = 0;
    uint64_t bytes = 0;
    size_t offset = 0;
    do {
        memcpy(target + offset, source + offset, block);
        bytes += block;
        offset += block;
        if (offset + block > region_bytes)
            offset = 0;
        elapsed = now_seconds() - start;
    } while (elapsed < seconds_per_run);
    printf("{\"peer\": \"limit\", \"what\": \"memcpy\", \"block_bytes\": %zu, \"gb_per_s\": %.4f, "
           "\"blocks_per_s\": %.1f}\n",
           block, (double)bytes * 1e-9 / elapsed, (double)bytes / (double)block / elapsed);
    fflush(stdout);
    munmap(target, region_bytes);
}

static void parse_blocks(char *text)
{
    block_count = 0;
    for (char *item = strtok(text, ","); item && block_count < BLOCKS_MAX; item = strtok(NULL, ","))
        blocks[block_count++] = strtoull(item, NULL, 10);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seconds"))
            seconds_per_run = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--region"))
            region_bytes = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--blocks"))
            parse_blocks(argv[i + 1]);
        else if (!strcmp(argv[i], "--congestion"))
            congestion = argv[i + 1];
        else {
            fprintf(stderr, "limits: unknown option %s\n", argv[i]);
            return 2;
        }
    }
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i] == 0 || blocks[i] > region_bytes) {
            fprintf(stderr, "limits: a block is between 1 byte and the region\n");
            return 2;
        }
    unsigned char *region = map_region();
    for (size_t i = 0; i < block_count; i++) {
        measure_stream(region, blocks[i], 0);
        measure_stream(region, blocks[i], 1);
        measure_memcpy(region, blocks[i]);
    }
    measure_gather(region, 0);
    measure_gather(region, 1);
    for (int is_read = 0; is_read < 2; is_read++)
        for (int mode = 0; mode < WAIT_MODES; mode++)
            measure_ping(region, is_read, (enum wait_mode)mode);
    return 0;
}
