/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/divert.h"

#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"

#define NAME "husk" /* of the table and of its chain */
#define MANGLE (-150) /* the priority that tproxy belongs to: before addresses are looked at */

/* Messages of one batch. It is ours alone and has one size, so nothing here can overflow; that is
 * asserted all the same. */
struct batch {
    uint8_t data[2048];
    size_t len;
    struct nlmsghdr *message; /* the one that is written now */
    uint32_t number;
    uint8_t family; /* NFPROTO_ */
};

/*** Netlink ***/

static void *
grow(struct batch *b, size_t len)
{
    void *at = b->data + b->len;

    if (len > sizeof b->data - b->len)
        __builtin_trap();
    b->len += NLMSG_ALIGN(len); /* zeroed by the caller; the size is a multiple, too */
    return at;
}

static void
begin_message(struct batch *b, int type, int flags, uint8_t family, uint16_t resource)
{
    struct nfgenmsg *g;

    b->message = grow(b, sizeof *b->message);
    *b->message = (struct nlmsghdr){.nlmsg_type = (uint16_t)type,
                                    .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
                                    .nlmsg_seq = b->number++};
    g = grow(b, sizeof *g);
    *g = (struct nfgenmsg){.nfgen_family = family, .version = NFNETLINK_V0,
                           .res_id = htons(resource)};
}

static void
end_message(struct batch *b)
{
    b->message->nlmsg_len = (uint32_t)(b->data + b->len - (uint8_t *)b->message);
}

static void
add(struct batch *b, int type, const void *data, size_t len)
{
    struct nlattr *a = grow(b, NLA_HDRLEN + len);

    *a = (struct nlattr){.nla_type = (uint16_t)type, .nla_len = (uint16_t)(NLA_HDRLEN + len)};
    memcpy((uint8_t *)a + NLA_HDRLEN, data, len);
}

static void
add_text(struct batch *b, int type, const char *text)
{
    add(b, type, text, strlen(text) + 1);
}

static void
add_number(struct batch *b, int type, uint32_t value)
{
    value = htonl(value);
    add(b, type, &value, sizeof value);
}

static struct nlattr *
begin_nest(struct batch *b, int type)
{
    struct nlattr *a = grow(b, NLA_HDRLEN);

    a->nla_type = (uint16_t)(type | NLA_F_NESTED);
    return a;
}

static void
end_nest(struct batch *b, struct nlattr *a)
{
    a->nla_len = (uint16_t)(b->data + b->len - (uint8_t *)a);
}

/*** Expressions of a rule ***/

struct expression {
    struct nlattr *element, *data;
};

static struct expression
begin_expression(struct batch *b, const char *name)
{
    struct expression e = {.element = begin_nest(b, NFTA_LIST_ELEM)};

    add_text(b, NFTA_EXPR_NAME, name);
    e.data = begin_nest(b, NFTA_EXPR_DATA);
    return e;
}

static void
end_expression(struct batch *b, struct expression e)
{
    end_nest(b, e.data);
    end_nest(b, e.element);
}

static void
add_value(struct batch *b, int type, const void *value, size_t len)
{
    struct nlattr *nest = begin_nest(b, type);

    add(b, NFTA_DATA_VALUE, value, len);
    end_nest(b, nest);
}

static void
match_tcp(struct batch *b)
{
    struct expression e = begin_expression(b, "meta");

    add_number(b, NFTA_META_DREG, NFT_REG_1);
    add_number(b, NFTA_META_KEY, NFT_META_L4PROTO);
    end_expression(b, e);
    e = begin_expression(b, "cmp");
    add_number(b, NFTA_CMP_SREG, NFT_REG_1);
    add_number(b, NFTA_CMP_OP, NFT_CMP_EQ);
    add_value(b, NFTA_CMP_DATA, &(uint8_t){IPPROTO_TCP}, 1);
    end_expression(b, e);
}

/* 127.0.0.0/8 and ::1 stay the sandbox's own. */
static void
match_no_loopback(struct batch *b)
{
    static const uint8_t v4[1] = {127}, v6[16] = {[15] = 1};
    int is_v4 = b->family == NFPROTO_IPV4;
    uint32_t len = is_v4 ? sizeof v4 : sizeof v6;
    struct expression e = begin_expression(b, "payload");

    add_number(b, NFTA_PAYLOAD_DREG, NFT_REG_1);
    add_number(b, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER);
    add_number(b, NFTA_PAYLOAD_OFFSET, is_v4 ? 16 : 24); /* where it goes to */
    add_number(b, NFTA_PAYLOAD_LEN, len);
    end_expression(b, e);
    e = begin_expression(b, "cmp");
    add_number(b, NFTA_CMP_SREG, NFT_REG_1);
    add_number(b, NFTA_CMP_OP, NFT_CMP_NEQ);
    add_value(b, NFTA_CMP_DATA, is_v4 ? v4 : v6, len);
    end_expression(b, e);
}

static void
load(struct batch *b, uint32_t into, const void *value, size_t len)
{
    struct expression e = begin_expression(b, "immediate");

    add_number(b, NFTA_IMMEDIATE_DREG, into);
    add_value(b, NFTA_IMMEDIATE_DATA, value, len);
    end_expression(b, e);
}

static void
hand_to(struct batch *b, const struct sockaddr *listener)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)listener;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)listener;
    struct expression e;

    if (b->family == NFPROTO_IPV4)
        load(b, NFT_REG_1, &v4->sin_addr, sizeof v4->sin_addr);
    else
        load(b, NFT_REG_1, &v6->sin6_addr, sizeof v6->sin6_addr);
    load(b, NFT_REG_2, &v4->sin_port, sizeof v4->sin_port); /* at the same place in both */
    e = begin_expression(b, "tproxy");
    add_number(b, NFTA_TPROXY_FAMILY, b->family);
    add_number(b, NFTA_TPROXY_REG_ADDR, NFT_REG_1);
    add_number(b, NFTA_TPROXY_REG_PORT, NFT_REG_2);
    end_expression(b, e);
}

/*** The batch ***/

static void
add_chain(struct batch *b)
{
    struct nlattr *hook;

    begin_message(b, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE, NLM_F_CREATE, b->family, 0);
    add_text(b, NFTA_TABLE_NAME, NAME);
    end_message(b);
    begin_message(b, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN, NLM_F_CREATE, b->family, 0);
    add_text(b, NFTA_CHAIN_TABLE, NAME);
    add_text(b, NFTA_CHAIN_NAME, NAME);
    hook = begin_nest(b, NFTA_CHAIN_HOOK);
    add_number(b, NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING);
    add_number(b, NFTA_HOOK_PRIORITY, (uint32_t)MANGLE);
    end_nest(b, hook);
    add_text(b, NFTA_CHAIN_TYPE, "filter");
    end_message(b);
}

static void
add_rule(struct batch *b, const struct sockaddr *listener)
{
    struct nlattr *expressions;

    /* The one message whose success is told: what fails before it is told first. */
    begin_message(b, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE,
                  NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK, b->family, 0);
    add_text(b, NFTA_RULE_TABLE, NAME);
    add_text(b, NFTA_RULE_CHAIN, NAME);
    expressions = begin_nest(b, NFTA_RULE_EXPRESSIONS);
    match_tcp(b);
    match_no_loopback(b);
    hand_to(b, listener);
    end_nest(b, expressions);
    end_message(b);
}

int
divert_to(const struct sockaddr *listener, struct err *err)
{
    scoped(fd_close) int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    struct batch b = {.family = listener->sa_family == AF_INET ? NFPROTO_IPV4 : NFPROTO_IPV6};
    struct {
        struct nlmsghdr n;
        struct nlmsgerr e;
        uint8_t more[1024];
    } answer = {0};
    ssize_t n;

    if (fd < 0)
        return err_errno(err, "speak with nftables");
    begin_message(&b, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    end_message(&b);
    add_chain(&b);
    add_rule(&b, listener);
    begin_message(&b, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    end_message(&b);
    if (send(fd, b.data, b.len, 0) < 0)
        return err_errno(err, "ask nftables for a rule");
    /* The kernel answers before send() returns. */
    n = recv(fd, &answer, sizeof answer, MSG_DONTWAIT);
    if (n < (ssize_t)(sizeof answer.n + sizeof answer.e) || answer.n.nlmsg_type != NLMSG_ERROR)
        return err_set(err, EPROTO, "no answer of nftables");
    errno = -answer.e.error;
    return errno ? err_errno(err, "make a tproxy rule of nftables") : 0;
}
