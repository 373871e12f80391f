// The C twin of src/bin/echo.rs: the same arguments, plain BSD sockets, for functions in languages without an own
// runtime. Addresses are numeric.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// WASI has no signals.
#ifndef __wasi__
#include <signal.h>
#endif

enum { BUFFER_BYTES = 64 * 1024, BACKLOG = 128, EXIT_USAGE = 2 };

static const char USAGE[] =
    "Sends back every byte of each connection until its end, one connection after the other.\n\n"
    "Usage: echo ADDR:PORT [--connections N]\n\n"
    "  --connections N   exit after N connections (default: serve for ever)\n";

static int usage_error(const char *what, const char *value) {
    fprintf(stderr, "echo: %s %s; see --help\n", what, value);
    return EXIT_USAGE;
}

static int failure(const char *action) {
    fprintf(stderr, "echo: %s: %s\n", action, strerror(errno));
    return EXIT_FAILURE;
}

static bool parse_number(const char *text, unsigned long long max, unsigned long long *number) {
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *text != '-' && *number <= max;
}

// Parses "1.2.3.4:80" and "[::1]:80"; returns the address's length, 0 when it is neither.
static socklen_t parse_address(const char *text, struct sockaddr_storage *address) {
    char host[INET6_ADDRSTRLEN + 2];
    const char *colon = strrchr(text, ':');
    unsigned long long port;
    if (colon == NULL || (size_t)(colon - text) >= sizeof host || !parse_number(colon + 1, UINT16_MAX, &port)) {
        return 0;
    }
    size_t length = (size_t)(colon - text);
    memcpy(host, text, length);
    host[length] = '\0';
    memset(address, 0, sizeof *address);
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    if (length < 2 || host[0] != '[' || host[length - 1] != ']') {
        return 0;
    }
    host[length - 1] = '\0';
    if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) != 1) {
        return 0;
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof *v6;
}

static bool send_all(int connection, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(connection, bytes, length, 0);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            return false;
        }
        bytes += sent;
        length -= (size_t)sent;
    }
    return true;
}

// Returns NULL at the end of the stream, else the action that failed, with errno set.
static const char *echo(int connection) {
    static char buffer[BUFFER_BYTES];
    int on = 1;
    // An answer must not wait for the acknowledgement of the one before.
    if (setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) {
        return "cannot set TCP_NODELAY";
    }
    for (;;) {
        ssize_t received = recv(connection, buffer, sizeof buffer, 0);
        if (received == 0) {
            return NULL;
        }
        if (received < 0) {
            if (errno == EINTR) {
                continue;
            }
            return "cannot receive";
        }
        if (!send_all(connection, buffer, (size_t)received)) {
            return "cannot send";
        }
    }
}

static int listen_on(const struct sockaddr_storage *address, socklen_t length) {
    int on = 1;
    int listener = socket(address->ss_family, SOCK_STREAM, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(listener, (const struct sockaddr *)address, length) < 0 || listen(listener, BACKLOG) < 0) {
        return -1;
    }
    return listener;
}

// Says where the listener is, with the port that was chosen for port 0.
static void announce(int listener) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char host[INET6_ADDRSTRLEN];
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0) {
        return;
    }
    if (address.ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        fprintf(stderr, "listening on %s:%u\n", host, ntohs(v4->sin_port));
    } else {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        fprintf(stderr, "listening on [%s]:%u\n", host, ntohs(v6->sin6_port));
    }
}

int main(int argc, char **argv) {
    const char *target = NULL;
    bool limited = false;
    unsigned long long connections = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(USAGE, stdout);
            return EXIT_SUCCESS;
        }
        if (strcmp(argv[i], "--connections") == 0) {
            const char *value = i + 1 < argc ? argv[++i] : "";
            if (!parse_number(value, UINT64_MAX, &connections)) {
                return usage_error("--connections is not a number:", value);
            }
            limited = true;
        } else if (target == NULL && argv[i][0] != '-') {
            target = argv[i];
        } else {
            return usage_error("unknown argument", argv[i]);
        }
    }
    if (target == NULL) {
        return usage_error("ADDR:PORT is missing", "");
    }
    struct sockaddr_storage address;
    socklen_t length = parse_address(target, &address);
    if (length == 0) {
        return usage_error("not a numeric ADDR:PORT:", target);
    }
#ifndef __wasi__
    // A peer that went shows as an error of send.
    signal(SIGPIPE, SIG_IGN);
#endif
    int listener = listen_on(&address, length);
    if (listener < 0) {
        return failure("cannot listen");
    }
    announce(listener);

    unsigned long long failed = 0;
    for (unsigned long long served = 0; !limited || served < connections; served++) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) {
            return failure("cannot accept a connection");
        }
        const char *action = echo(connection);
        if (action != NULL) {
            failure(action);
            failed++;
        }
        close(connection);
    }
    if (failed > 0) {
        fprintf(stderr, "echo: %llu of %llu connections failed\n", failed, connections);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
