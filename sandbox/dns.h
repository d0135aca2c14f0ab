/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dns.h: just enough of DNS to answer a stub resolver (RFC 1035, RFC 6891). Pure: bytes in,
 * bytes out; nothing is allocated. The bytes come from inside.
 *
 * One question for each query, whose name is not compressed, as every resolver sends it. The
 * answer holds the question as it came, so that a client that mixes case (0x20) recognises it.
 */
#pragma once

#include "base/base.h"
#include "base/names.h"

#define DNS_PACKET 512 /* bytes: no answer is longer */
#define DNS_TTL 5      /* seconds: an alias may be given to another name after a long time */

enum dns_type { DNS_A = 1, DNS_PTR = 12 };
enum dns_code {
    DNS_OK = 0,
    DNS_FORMAT_ERROR = 1,
    DNS_SERVER_FAILURE = 2,
    DNS_NO_NAME = 3,
    DNS_NOT_IMPLEMENTED = 4
};

struct dns_query {
    uint8_t head[4];       /* identity and flags, as they came */
    struct bytes question; /* name, type, class; borrowed; empty after a format error */
    char name[NAME_SIZE];  /* normalised; empty if it is no name that a rule could match */
    uint16_t type;
    uint16_t class;
};

/* Returns DNS_OK with *ret filled; another code if that is the answer whatever the name; or -1
 * if the packet deserves none: too short, or itself an answer. */
int dns_read(const uint8_t *packet, size_t len, struct dns_query *ret);

/* Writes an answer: with a code, and the address (host order) if it is not 0. Returns its
 * length. */
size_t dns_answer(const struct dns_query *query, int code, uint32_t address,
                  uint8_t into[static DNS_PACKET]);
