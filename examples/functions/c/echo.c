// Sends back every byte of each connection, one connection after the other.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(int result, const char *call) {
    if (result < 0) {
        perror(call);
        exit(EXIT_FAILURE);
    }
}

static void echo(int connection) {
    static char buffer[64 * 1024];
    ssize_t length;
    while ((length = recv(connection, buffer, sizeof buffer, 0)) > 0) {
        for (ssize_t sent = 0, taken; sent < length; sent += taken) {
            taken = send(connection, buffer + sent, (size_t)(length - sent), 0);
            if (taken < 0) {
                perror("send");
                return;
            }
        }
    }
    if (length < 0) {
        perror("recv");
    }
}

int main(int argc, char **argv) {
    char host[INET_ADDRSTRLEN];
    unsigned short port;
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (argc != 2 || sscanf(argv[1], "%15[0-9.]:%hu", host, &port) != 2 ||
        inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fputs("usage: echo ADDR:PORT\n", stderr);
        return EXIT_FAILURE;
    }
    address.sin_port = htons(port);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    check(listener, "socket");
    check(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(listener, 128), "listen");
    fprintf(stderr, "listening on %s\n", argv[1]);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        check(connection, "accept");
        echo(connection);
        close(connection);
    }
}
