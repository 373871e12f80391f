// The floor: requests and streams over TCP in C, as small as they can be, with the command lines, the protocol and the output of
// `cwasi-native rr` and `cwasi-native bulk`. One connection at a time. Sockets are non-blocking, as those of event loops and Wasm
// hosts are, with waits in poll(2).

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 128, EXIT_USAGE = 2, NUMBER = 8, PERIOD = 65521, READ_BYTES = 256 * 1024, TABLE_WORDS = 8 * 1024 };

static const uint64_t MAX_REQUEST = 1 << 30;

static const char USAGE[] =
    "The floor of the figures: requests and streams over TCP in C, on one connection at a time.\n\n"
    "Usage: cwasi-native-c rr serve ADDR:PORT [--connections N] [--together 1] [--verify] [--nodelay]\n"
    "       cwasi-native-c rr client ADDR:PORT --size BYTES --count N [--answer BYTES] [--warmup N]\n"
    "                                [--connections 1] [--verify] [--nodelay]\n"
    "       cwasi-native-c bulk sink ADDR:PORT [--connections N] [--verify]\n"
    "       cwasi-native-c bulk source ADDR:PORT --size WRITE_BYTES --bytes TOTAL [--nodelay]\n\n"
    "Addresses are numeric. The options are those of `cwasi-native`, and so is the JSON line that a client prints.\n";

// The words of a connection's first bytes. They are little-endian, as the machines that this is built for are.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are sent as they are in memory");
struct header {
    uint64_t request, answer, close_after;
};

static struct {
    const char *address;
    uint64_t size, answer, count, warmup, connections, together, bytes;
    bool nodelay, verify;
} options = {.answer = 1};

static _Noreturn void fail(const char *what) {
    if (errno != 0) {
        fprintf(stderr, "cwasi-native-c: %s: %s\n", what, strerror(errno));
    } else {
        fprintf(stderr, "cwasi-native-c: %s\n", what);
    }
    exit(EXIT_FAILURE);
}

static _Noreturn void usage_error(const char *what, const char *value) {
    fprintf(stderr, "cwasi-native-c: %s %s; see --help\n", what, value);
    exit(EXIT_USAGE);
}

static void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (memory == NULL) {
        fail("cannot allocate");
    }
    return memory;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// Sockets

static void wait_for(int fd, short event) {
    struct pollfd waiting = {.fd = fd, .events = event};
    if (poll(&waiting, 1, -1) < 0 && errno != EINTR) {
        fail("cannot wait (poll)");
    }
}

static bool again(void) { return errno == EAGAIN || errno == EINTR; }

// Receives what is there, at least a byte; 0 at the end of the stream.
static size_t receive(int fd, void *bytes, size_t length) {
    for (;;) {
        ssize_t received = recv(fd, bytes, length, 0);
        if (received >= 0) {
            return (size_t)received;
        }
        if (!again()) {
            fail("cannot receive");
        }
        wait_for(fd, POLLIN);
    }
}

// Fills the memory; false when the stream ends before its first byte.
static bool receive_all(int fd, void *bytes, size_t length) {
    for (size_t filled = 0; filled < length;) {
        size_t received = receive(fd, (char *)bytes + filled, length - filled);
        if (received == 0 && filled == 0) {
            return false;
        }
        if (received == 0) {
            errno = 0;
            fail("the stream ended within a message");
        }
        filled += received;
    }
    return true;
}

static void send_all(int fd, const void *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent >= 0) {
            bytes = (const char *)bytes + sent;
            length -= (size_t)sent;
        } else if (!again()) {
            fail("cannot send");
        } else {
            wait_for(fd, POLLOUT);
        }
    }
}

static struct addrinfo *resolve(const char *text) {
    char host[128];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host) {
        usage_error("not an ADDR:PORT:", text);
    }
    size_t length = (size_t)(colon - text);
    bool brackets = length > 1 && text[0] == '[' && text[length - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(length - 2 * brackets), text + brackets);
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) {
        usage_error("not a numeric ADDR:PORT:", text);
    }
    return found;
}

static int new_socket(const struct addrinfo *address) {
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        fail("cannot create a socket");
    }
    return fd;
}

static void set_option(int fd, int level, int name) {
    int on = 1;
    if (setsockopt(fd, level, name, &on, sizeof on) < 0) {
        fail("cannot set a socket option");
    }
}

static int connect_to(const char *text) {
    struct addrinfo *address = resolve(text);
    int fd = new_socket(address);
    if (connect(fd, address->ai_addr, address->ai_addrlen) < 0) {
        if (errno != EINPROGRESS) {
            fail("cannot connect");
        }
        wait_for(fd, POLLOUT);
        socklen_t length = sizeof errno;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &errno, &length);
        if (errno != 0) {
            fail("cannot connect");
        }
    }
    freeaddrinfo(address);
    if (options.nodelay) {
        set_option(fd, IPPROTO_TCP, TCP_NODELAY);
    }
    return fd;
}

// Gives each connection to `handle`, one after the other; a failure ends the program.
static void serve(void (*handle)(int)) {
    struct addrinfo *address = resolve(options.address);
    int listener = new_socket(address);
    set_option(listener, SOL_SOCKET, SO_REUSEADDR);
    if (bind(listener, address->ai_addr, address->ai_addrlen) < 0 || listen(listener, BACKLOG) < 0) {
        fail("cannot listen");
    }
    struct sockaddr_storage local;
    socklen_t length = sizeof local;
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getsockname(listener, (struct sockaddr *)&local, &length) < 0 ||
        getnameinfo((struct sockaddr *)&local, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        fail("cannot read the listener's address");
    }
    freeaddrinfo(address);
    const char *form = local.ss_family == AF_INET6 ? "listening on [%s]:%s\n" : "listening on %s:%s\n";
    fprintf(stderr, form, host, port);
    for (uint64_t served = 0; options.connections == 0 || served < options.connections;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && again()) {
            wait_for(listener, POLLIN);
            continue;
        }
        if (fd < 0) {
            fail("cannot accept a connection");
        }
        if (options.nodelay) {
            set_option(fd, IPPROTO_TCP, TCP_NODELAY);
        }
        handle(fd);
        close(fd);
        served++;
    }
}

// Requests

// The bytes of each request: those of cwasi-peer's `pattern`, of the seed `length`.
static void fill(unsigned char *bytes, size_t length) {
    uint64_t table[TABLE_WORDS], state = length, increment = 0;
    for (size_t i = 0; i < TABLE_WORDS; i++) {
        state += 0x9e3779b97f4a7c15;
        uint64_t word = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
        word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
        table[i] = word ^ (word >> 31);
    }
    for (size_t at = 0; at < length; at += NUMBER) {
        size_t i = at / NUMBER % TABLE_WORDS;
        if (i == 0 && at > 0) {
            increment += 0xd1b54a32d192ed03;
        }
        uint64_t word = table[i] + increment;
        memcpy(bytes + at, &word, length - at < NUMBER ? length - at : NUMBER);
    }
}

// A request's number is at its beginning and at its end.
static void stamp(unsigned char *request, size_t length, uint64_t number) {
    memcpy(request, &number, length < NUMBER ? length : NUMBER);
    if (length >= 2 * NUMBER) {
        memcpy(request + length - NUMBER, &number, NUMBER);
    }
}

static bool is_stamped(const unsigned char *bytes, size_t length, size_t request, uint64_t number) {
    bool whole = length == request && request >= 2 * NUMBER;
    return memcmp(bytes, &number, length < NUMBER ? length : NUMBER) == 0 &&
           (!whole || memcmp(bytes + length - NUMBER, &number, NUMBER) == 0);
}

static void answer_requests(int fd) {
    struct header header;
    if (!receive_all(fd, &header, sizeof header)) {
        return;
    }
    errno = 0;
    if (header.request == 0 || header.request > MAX_REQUEST || header.answer == 0 ||
        header.answer > header.request) {
        fail("a client announces sizes that no client has");
    }
    unsigned char *request = allocate(header.request), *expected = NULL;
    if (options.verify) {
        expected = allocate(header.request);
        fill(expected, header.request);
    }
    for (uint64_t number = 0; receive_all(fd, request, header.request);) {
        bool right = is_stamped(request, header.request, header.request, number);
        if (expected != NULL) {
            stamp(expected, header.request, number);
            right = right && memcmp(request, expected, header.request) == 0;
        }
        if (!right) {
            errno = 0;
            fail("a request arrived altered");
        }
        send_all(fd, request, header.answer);
        if (++number == header.close_after) {
            break;
        }
    }
    free(request);
    free(expected);
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

// Prints the distribution of times in seconds as microseconds; percentiles are nearest-rank.
static void print_times(double *times, uint64_t count) {
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += times[i];
    }
    qsort(times, count, sizeof *times, by_value);
    double p50 = times[(count * 50 + 99) / 100 - 1], p99 = times[(count * 99 + 99) / 100 - 1];
    printf("\"p50_us\":%.3f,\"p99_us\":%.3f,\"mean_us\":%.3f,\"min_us\":%.3f,\"max_us\":%.3f}\n", p50 * 1e6, p99 * 1e6,
           sum / (double)count * 1e6, times[0] * 1e6, times[count - 1] * 1e6);
}

static void send_requests(void) {
    struct header header = {.request = options.size, .answer = options.answer};
    // The header and the request: a connection's first write has both.
    unsigned char *out = allocate(sizeof header + options.size), *request = out + sizeof header;
    unsigned char *answer = allocate(options.answer);
    double *times = allocate(options.count * sizeof *times);
    memcpy(out, &header, sizeof header);
    fill(request, options.size);
    int fd = connect_to(options.address);
    double begun = seconds_now();
    for (uint64_t number = 0; number < options.warmup + options.count; number++) {
        if (number == options.warmup) {
            begun = seconds_now();
        }
        size_t from = number == 0 ? 0 : sizeof header;
        stamp(request, options.size, number);
        double sent = seconds_now();
        send_all(fd, out + from, sizeof header + options.size - from);
        if (!receive_all(fd, answer, options.answer)) {
            errno = 0;
            fail("the server closed the connection");
        }
        if (number >= options.warmup) {
            times[number - options.warmup] = seconds_now() - sent;
        }
        if (!is_stamped(answer, options.answer, options.size, number) ||
            (options.verify && memcmp(answer, request, options.answer) != 0)) {
            errno = 0;
            fail("an answer is altered");
        }
    }
    double seconds = seconds_now() - begun, count = (double)options.count;
    printf("{\"size\":%" PRIu64 ",\"answer\":%" PRIu64 ",\"connections\":1,\"count\":%" PRIu64 ",", options.size,
           options.answer, options.count);
    printf("\"seconds\":%.9f,\"per_second\":%.3f,\"gb_per_s\":%.9f,", seconds, count / seconds,
           count * (double)options.size / seconds / 1e9);
    print_times(times, options.count);
    free(times);
    free(answer);
    free(out);
    close(fd);
}

// Streams

// Bytes whose place in the stream shows: those of cwasi-peer's `cycle`, of which pieces of `longest` bytes are taken.
static unsigned char *cycle(size_t longest) {
    unsigned char *bytes = allocate(PERIOD + longest);
    uint64_t state = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < PERIOD; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (unsigned char)(state >> 24);
    }
    for (size_t i = PERIOD; i < PERIOD + longest; i++) {
        bytes[i] = bytes[i - PERIOD];
    }
    return bytes;
}

// Tells the stream's length back, or 0 for one with a wrong byte.
static void receive_stream(int fd) {
    unsigned char *buffer = allocate(READ_BYTES), *expected = options.verify ? cycle(READ_BYTES) : NULL;
    uint64_t total = 0;
    bool right = true;
    for (size_t received; (received = receive(fd, buffer, READ_BYTES)) > 0; total += received) {
        right = right && (expected == NULL || memcmp(buffer, expected + total % PERIOD, received) == 0);
    }
    uint64_t told = right ? total : 0;
    send_all(fd, &told, sizeof told);
    free(expected);
    free(buffer);
}

static void send_stream(void) {
    unsigned char *bytes = cycle(options.size);
    int fd = connect_to(options.address);
    double begun = seconds_now();
    for (uint64_t sent = 0; sent < options.bytes;) {
        uint64_t left = options.bytes - sent, length = left < options.size ? left : options.size;
        send_all(fd, bytes + sent % PERIOD, length);
        sent += length;
    }
    uint64_t told;
    if (shutdown(fd, SHUT_WR) < 0 || !receive_all(fd, &told, sizeof told)) {
        fail("cannot end the stream");
    }
    double seconds = seconds_now() - begun;
    errno = 0;
    if (told != options.bytes) {
        fail(told == 0 ? "a byte of the stream is wrong" : "another number of bytes arrived than was sent");
    }
    printf("{\"bytes\":%" PRIu64 ",\"size\":%" PRIu64 ",\"seconds\":%.9f,\"gb_per_s\":%.9f,\"ok\":true}\n", told,
           options.size, seconds, (double)told / seconds / 1e9);
    free(bytes);
    close(fd);
}

// Command line

static const struct {
    const char *name;
    uint64_t *number;
    bool *flag;
} OPTIONS[] = {
    {"--size", &options.size, NULL},
    {"--answer", &options.answer, NULL},
    {"--count", &options.count, NULL},
    {"--warmup", &options.warmup, NULL},
    {"--connections", &options.connections, NULL},
    {"--together", &options.together, NULL},
    {"--bytes", &options.bytes, NULL},
    {"--nodelay", NULL, &options.nodelay},
    {"--verify", NULL, &options.verify},
};

static uint64_t number(const char *text) {
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-') {
        usage_error("not a number:", text);
    }
    return value;
}

static void parse(int argc, char **argv) {
    for (int i = 3; i < argc; i++) {
        size_t option = 0, known = sizeof OPTIONS / sizeof *OPTIONS;
        while (option < known && strcmp(argv[i], OPTIONS[option].name) != 0) {
            option++;
        }
        if (option == known) {
            if (argv[i][0] == '-' || options.address != NULL) {
                usage_error("unknown argument", argv[i]);
            }
            options.address = argv[i];
        } else if (OPTIONS[option].flag != NULL) {
            *OPTIONS[option].flag = true;
        } else if (++i == argc) {
            usage_error("no value for", argv[i - 1]);
        } else {
            *OPTIONS[option].number = number(argv[i]);
        }
    }
    if (options.address == NULL) {
        usage_error("ADDR:PORT is missing", "");
    }
    if (options.together > 1) {
        usage_error("one connection at a time is served,", "not --together");
    }
}

static bool command(char **argv, const char *program, const char *end) {
    return strcmp(argv[1], program) == 0 && strcmp(argv[2], end) == 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(USAGE, stdout);
        return EXIT_SUCCESS;
    }
    if (argc < 3) {
        usage_error("a command is missing", "");
    }
    parse(argc, argv);
    if (command(argv, "rr", "serve")) {
        serve(answer_requests);
    } else if (command(argv, "bulk", "sink")) {
        serve(receive_stream);
    } else if (command(argv, "rr", "client")) {
        bool sizes = options.size > 0 && options.size <= MAX_REQUEST && options.answer > 0 && options.answer <= options.size;
        if (!sizes || options.count == 0) {
            usage_error("--size and --count are at least 1,", "--answer is 1 to --size");
        }
        if (options.connections > 1) {
            usage_error("there is one connection,", "not --connections");
        }
        send_requests();
    } else if (command(argv, "bulk", "source")) {
        if (options.size == 0) {
            usage_error("--size is at least 1", "");
        }
        send_stream();
    } else {
        usage_error("unknown command", argv[2]);
    }
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
