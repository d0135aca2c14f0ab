/* SPDX-License-Identifier: BSD-3-Clause
 *
 * names.h: names of hosts, and the rules of an allow-list: HOST[:PORT]. Pure.
 *
 *   HOST   example.org      that name
 *          *.example.org    every name below it, at any depth; not itself
 *          192.0.2.7        an IPv4 address
 *          192.0.2.0/24     every address of a network
 *   PORT   1 to 65535; without one, 80 and 443
 *
 * RULES_ALL in place of a rule is everything, at every port. It opens no address that the guard
 * refuses: that takes a rule that lists it.
 *
 * In base/, because the supervisor refuses a wrong rule when it is typed, and the sandbox acts
 * on it. A name is compared only after name_normalise(), and by whole labels only: what else
 * resolvers and programs disagree about (case, a dot at the end, NUL) is gone by then.
 */
#pragma once

#include <netinet/in.h>

#include "base/base.h"
#include "base/err.h"

#define NAME_SIZE 254 /* bytes: the longest name in text form, and its NUL (RFC 1035) */
#define RULES_MAX 256
#define PORTS_MAX 128 /* different ports in all rules together */
#define RULES_ALL "*"

/* Addresses that stand for names inside: 198.18.0.0/15, which RFC 2544 keeps from the internet. */
#define ALIAS_NETWORK 0xc6120000u
#define ALIAS_MASK 0xfffe0000u

enum rule_kind { RULE_NAME, RULE_BELOW, RULE_NETWORK };

struct rule {
    enum rule_kind kind;
    char name[NAME_SIZE]; /* normalised; RULE_BELOW: without "*." */
    uint32_t network;     /* host order */
    uint32_t mask;
    uint16_t port; /* 0: 80 and 443 */
};

/* Zero it to start. */
struct rules {
    struct rule *item;
    size_t len;
    int all; /* RULES_ALL was added, which is no item */
};

/* Lower case, without one dot at the end. -1 if it is no name: a byte that is no letter, digit,
 * hyphen or underscore, an empty label, one above 63 bytes, or more than 253 bytes in all. */
int name_normalise(struct bytes text, char into[static NAME_SIZE]);

/* For tables; not for secrets. */
uint32_t text_hash(const char *text);

int rule_parse(const char *text, struct rule *ret, struct err *err);
/* A rule or RULES_ALL. Also refuses more than RULES_MAX rules, or PORTS_MAX ports. */
int rules_add(struct rules *rules, const char *text, struct err *err);
void rules_release(struct rules *rules);

/* Whether there is anything to be reached. */
int rules_any(const struct rules *rules);
/* Whether some rule names it; `name` is normalised. Port 0: on whatever port. */
int rules_allow_name(const struct rules *rules, const char *name, uint16_t port);
/* Whether some rule lists the address (host order), as itself or in a network. */
int rules_allow_address(const struct rules *rules, uint32_t address, uint16_t port);
/* Every port of some rule, once. Returns how many. */
size_t rules_ports(const struct rules *rules, uint16_t ret[static PORTS_MAX]);

/* NULL if a connection to this address may be made on behalf of an allowed name, else what is
 * wrong with it, for people: "a private address". The guard against names that resolve to what
 * only this machine can reach. A rule opens such an address by listing it, or a network that
 * lies within such a range: 0.0.0.0/0 opens none. */
const char *rules_refuse_address(const struct rules *rules, const struct sockaddr *address,
                                 uint16_t port);
/* The same for addresses of this machine's own, which only the caller can know. */
int rules_list_address(const struct rules *rules, const struct sockaddr *address, uint16_t port);

/* "ADDR" or "ADDR:PORT" of a DNS server; IPv4, or IPv6 as [ADDR]:PORT. */
int resolver_check(const char *text, struct err *err);
