/*
 * A native container for tests and comparisons.
 *
 *   peer print [ARG...]          prints working directory, arguments and environment, and "done" on stderr
 *   peer exit CODE               ends with this exit code
 *   peer hello                   prints "hello", then sleeps until it is told to end
 *   peer echo PORT               sends back what it gets, one connection after the other
 *   peer call ADDRESS PORT N     sends N blocks of 4 KiB to an echo and compares; prints the bytes
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what) {
    perror(what);
    return 1;
}

static void end(int signal) { _exit(128 + signal); }

/* The first process of a pid namespace ignores signals that it does not handle. */
static void handle_signals(void) {
    struct sigaction ends = {.sa_handler = end};
    sigaction(SIGINT, &ends, 0);
    sigaction(SIGTERM, &ends, 0);
}

static int print(int argc, char **argv) {
    char cwd[4096];
    if (!getcwd(cwd, sizeof cwd))
        return fail("getcwd");
    printf("cwd %s\n", cwd);
    for (int i = 0; i < argc; i++)
        printf("arg %s\n", argv[i]);
    for (char **variable = environ; *variable; variable++)
        printf("env %s\n", *variable);
    fprintf(stderr, "done\n");
    return 0;
}

static int send_all(int fd, const char *bytes, size_t left) {
    while (left > 0) {
        ssize_t sent = send(fd, bytes, left, MSG_NOSIGNAL);
        if (sent <= 0)
            return -1;
        bytes += sent;
        left -= (size_t)sent;
    }
    return 0;
}

static int echo(int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16))
        return fail("listen");
    printf("listening\n");
    fflush(stdout);
    for (;;) {
        char buffer[65536];
        ssize_t got;
        int fd = accept(listener, 0, 0);
        if (fd < 0)
            return fail("accept");
        while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0 && !send_all(fd, buffer, (size_t)got)) {
        }
        close(fd);
    }
}

static int call(const char *host, int port, long blocks) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || connect(fd, (struct sockaddr *)&address, sizeof address))
        return fail("connect");
    for (long block = 0; block < blocks; block++) {
        char sent[4096], got[sizeof sent];
        for (size_t i = 0; i < sizeof sent; i++)
            sent[i] = (char)(i * 7 + (size_t)block);
        if (send_all(fd, sent, sizeof sent))
            return fail("send");
        if (recv(fd, got, sizeof got, MSG_WAITALL) != (ssize_t)sizeof got)
            return fail("recv");
        if (memcmp(sent, got, sizeof got)) {
            fprintf(stderr, "block %ld came back changed\n", block);
            return 1;
        }
    }
    printf("%ld bytes came back\n", blocks * 4096);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    handle_signals();
    if (!strcmp(what, "print"))
        return print(argc - 2, argv + 2);
    if (!strcmp(what, "exit") && argc == 3)
        return atoi(argv[2]);
    if (!strcmp(what, "hello")) {
        printf("hello\n");
        fflush(stdout);
        for (;;)
            pause();
    }
    if (!strcmp(what, "echo") && argc == 3)
        return echo(atoi(argv[2]));
    if (!strcmp(what, "call") && argc == 5)
        return call(argv[2], atoi(argv[3]), atol(argv[4]));
    fprintf(stderr, "usage: peer print|exit|hello|echo|call ...\n");
    return 2;
}
