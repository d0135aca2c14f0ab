/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-loopback: makes the half of a container's network that lies inside (sandbox/loopback.h). It runs
 * once, in a container of its own that shares nothing but the network with the one of the cells, and has
 * the capability there that the other never gets; then that is gone. Static, for it runs in any image.
 *
 *     husk-loopback SOCKET RULE...
 *
 * The answer is one datagram: the sockets, or what went wrong.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sandbox/loopback.h"

static int
connect_to(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0)
        return fd;
    perror("husk-loopback");
    return -1;
}

int
main(int argc, char **argv)
{
    struct rules rules = {0};
    struct err err;
    int fd = argc > 2 ? connect_to(argv[1]) : -1, r = 0;

    if (fd < 0)
        return 1;
    for (int i = 2; r == 0 && i < argc; i++)
        r = rules_add(&rules, argv[i], &err);
    if (r == 0)
        r = loopback_make(&rules, fd, &err);
    if (r < 0)
        send(fd, err.text, strlen(err.text), MSG_NOSIGNAL);
    return r < 0;
}
