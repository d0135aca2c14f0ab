/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/loopback.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sandbox/divert.h"

#define BACKLOG 512
#define LOOPBACK_NETWORK 0x7f000000u
#define LOOPBACK_MASK 0xff000000u
static const uint8_t own_v4[4] = {127, 0, 0, 1};

union control {
    struct cmsghdr align;
    char space[CMSG_SPACE(LOOPBACK_SOCKETS * sizeof(int))];
};

/*** Inside ***/

static int
bring_up(struct err *err)
{
    scoped(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

    return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) < 0 ? err_errno(err, "bring up lo") : 0;
}

static void
add_attribute(void *message, unsigned short type, const void *value, size_t len)
{
    struct nlmsghdr *n = message;
    struct rtattr *a = (struct rtattr *)((char *)n + NLMSG_ALIGN(n->nlmsg_len));

    a->rta_type = type;
    a->rta_len = (unsigned short)RTA_LENGTH(len);
    memcpy(RTA_DATA(a), value, len);
    n->nlmsg_len = NLMSG_ALIGN(n->nlmsg_len) + RTA_ALIGN(a->rta_len);
}

struct route {
    unsigned char family, prefix;
    uint32_t network;   /* host order; for a prefix of 0 none */
    const void *source; /* the address of those who connect there; NULL: the one they connect to */
};

/* As `ip route add local NETWORK/PREFIX dev lo src SOURCE`. */
static int
add_route(int netlink, const struct route *route, struct err *err)
{
    uint32_t network = htonl(route->network), lo = if_nametoindex("lo");
    struct {
        struct nlmsghdr n;
        struct rtmsg r;
        char attributes[64];
    } ask = {.n = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
                   .nlmsg_type = RTM_NEWROUTE,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK},
             .r = {.rtm_family = route->family,
                   .rtm_dst_len = route->prefix,
                   .rtm_table = RT_TABLE_LOCAL,
                   .rtm_protocol = RTPROT_BOOT,
                   .rtm_scope = RT_SCOPE_HOST,
                   .rtm_type = RTN_LOCAL}};
    struct {
        struct nlmsghdr n;
        struct nlmsgerr e;
        char more[256];
    } answer = {0};
    ssize_t n;

    if (route->prefix)
        add_attribute(&ask, RTA_DST, &network, sizeof network);
    add_attribute(&ask, RTA_OIF, &lo, sizeof lo);
    if (route->source)
        add_attribute(&ask, RTA_PREFSRC, route->source,
                      route->family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr));
    if (send(netlink, &ask, ask.n.nlmsg_len, 0) < 0)
        return err_errno(err, "ask for a route");
    n = recv(netlink, &answer, sizeof answer, 0);
    if (n < (ssize_t)(sizeof answer.n + sizeof answer.e) || answer.n.nlmsg_type != NLMSG_ERROR)
        return err_set(err, EPROTO, "no answer to a new route");
    errno = -answer.e.error;
    /* Two rules may name one network. */
    return errno && errno != EEXIST ? err_errno(err, "make a local route") : 0;
}

static int
open_netlink(struct err *err)
{
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    return netlink < 0 ? err_errno(err, "speak with the kernel about routes") : netlink;
}

static int
add_routes(const struct rules *rules, struct err *err)
{
    scoped(fd_close) int netlink = open_netlink(err);
    struct route route = {.family = AF_INET,
                          .prefix = (unsigned char)__builtin_popcount(ALIAS_MASK),
                          .network = ALIAS_NETWORK};

    if (netlink < 0 || add_route(netlink, &route, err) < 0)
        return -1;
    for (size_t i = 0; i < rules->len; i++) {
        const struct rule *r = &rules->item[i];
        /* 127.0.0.0/8 is the sandbox's own, whatever is listed: such a rule is for names. */
        if (r->kind != RULE_NETWORK || (r->network & LOOPBACK_MASK) == LOOPBACK_NETWORK)
            continue;
        route.prefix = (unsigned char)__builtin_popcount(r->mask);
        route.network = r->network;
        if (add_route(netlink, &route, err) < 0)
            return -1;
    }
    return 0;
}

static int
open_socket(int type, uint32_t address, uint16_t port, int *ret, struct err *err)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(address)};
    int on = 1;

    *ret = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*ret < 0 ||
        (type == SOCK_STREAM && setsockopt(*ret, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) ||
        bind(*ret, (struct sockaddr *)&at, sizeof at) < 0 ||
        (type == SOCK_STREAM && listen(*ret, BACKLOG) < 0))
        return err_errno(err, "listen at port %u", port);
    return 0;
}

/* Port 53 costs nothing: below 1024 nobody inside can listen. */
static int
open_for_all(int family, int *ret, struct err *err)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(53),
                             .sin_addr.s_addr = inet_addr(LOOPBACK_RESOLVER)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(53),
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const struct sockaddr *at = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    /* Without a source of its own a socket that connects to its own port would find itself. */
    struct route route = {.family = (unsigned char)family,
                          .source = family == AF_INET ? (const void *)&own_v4 : &v6.sin6_addr};
    scoped(fd_close) int netlink = open_netlink(err);
    int on = 1;

    if (netlink < 0)
        return -1;
    *ret = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Those that are accepted inherit the first: without it nobody inside could listen at a port
     * that somebody is connected to. */
    if (*ret < 0 || setsockopt(*ret, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        (family == AF_INET ? setsockopt(*ret, SOL_IP, IP_TRANSPARENT, &on, sizeof on)
                           : setsockopt(*ret, SOL_IPV6, IPV6_TRANSPARENT, &on, sizeof on)) < 0 ||
        bind(*ret, at, family == AF_INET ? sizeof v4 : sizeof v6) < 0 || listen(*ret, BACKLOG) < 0)
        return err_errno(err, "listen for everything");
    return add_route(netlink, &route, err) < 0 ? -1 : divert_to(at, err);
}

/* Nothing of IPv6 can be reached inside if the machine has switched it off: no ::1, no sockets. */
static int
has_ipv6(void)
{
    scoped(fd_close) int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

    return fd >= 0 && bind(fd, (struct sockaddr *)&own, sizeof own) == 0;
}

static int
send_sockets(int to, const int *sockets, size_t count, struct err *err)
{
    union control control = {0};
    struct iovec iov = {(char *)"s", 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
                         .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), sockets, count * sizeof(int));
    return sendmsg(to, &msg, MSG_NOSIGNAL) < 0 ? err_errno(err, "hand out the sockets") : 0;
}

/* A socket that failed may be among the `count`. */
static int
open_listeners(const struct rules *rules, int *sockets, size_t *count, struct err *err)
{
    uint16_t ports[PORTS_MAX];
    size_t nports = rules_ports(rules, ports);
    int r = 0;

    if (rules->all) {
        r = open_for_all(AF_INET, &sockets[(*count)++], err);
        if (r == 0 && has_ipv6())
            r = open_for_all(AF_INET6, &sockets[(*count)++], err);
        return r;
    }
    if (add_routes(rules, err) < 0)
        return -1;
    for (size_t i = 0; r == 0 && i < nports; i++)
        r = open_socket(SOCK_STREAM, INADDR_ANY, ports[i], &sockets[(*count)++], err);
    return r;
}

int
loopback_make(const struct rules *rules, int to, struct err *err)
{
    int sockets[LOOPBACK_SOCKETS], r;
    size_t count = 1;

    for (size_t i = 0; i < countof(sockets); i++)
        sockets[i] = -1;
    if (bring_up(err) < 0)
        return -1;
    if (!rules_any(rules))
        return 0;
    r = open_socket(SOCK_DGRAM, ntohl(inet_addr(LOOPBACK_RESOLVER)), 53, &sockets[0], err);
    if (r == 0)
        r = open_listeners(rules, sockets, &count, err);
    if (r == 0)
        r = send_sockets(to, sockets, count, err);
    for (size_t i = 0; i < count; i++)
        fd_close(&sockets[i]);
    return r;
}

int
loopback_try_all(struct err *err)
{
    scoped(fd_close) int listener = -1;

    return bring_up(err) < 0 ? -1 : open_for_all(AF_INET, &listener, err);
}

/*** Outside ***/

int
loopback_take(int from, int ret[static LOOPBACK_SOCKETS], size_t *count, struct err *err)
{
    union control control = {0};
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
                         .msg_controllen = sizeof control.space};
    ssize_t n = recvmsg(from, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    struct cmsghdr *c;

    if (n < 0)
        return err_errno(err, "take the sockets");
    c = n == 1 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
        (msg.msg_flags & MSG_CTRUNC) || c->cmsg_len < CMSG_LEN(2 * sizeof(int)))
        return err_set(err, EPROTO, "the sandbox handed out no sockets");
    *count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(ret, CMSG_DATA(c), *count * sizeof(int));
    return 0;
}
