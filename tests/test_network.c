/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What an allow-list says yes to is decided by pure functions over names, addresses, DNS packets
 * and ClientHellos: tables of cases.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/names.h"
#include "sandbox/aliases.h"
#include "sandbox/dns.h"
#include "sandbox/hello.h"
#include "wall/frame.h"

#define L63 "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0"
#define B(literal) BYTES(literal)

/*** Names ***/

static void
a_name_has_one_form_or_is_none(void **state)
{
    static const struct {
        struct bytes text;
        const char *form; /* NULL: no name */
    } cases[] = {
        {B("example.org"), "example.org"},
        {B("EXAMPLE.Org"), "example.org"},
        {B("example.org."), "example.org"},
        {B("xn--bcher-kva.example"), "xn--bcher-kva.example"},
        {B("_sip._tcp.example.org"), "_sip._tcp.example.org"},
        {B("a"), "a"},
        {B(L63 ".org"), L63 ".org"},
        {B(L63 "." L63 "." L63 "." "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxy"),
         L63 "." L63 "." L63 "." "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxy"},
        {B(""), NULL},
        {B("."), NULL},
        {B(".."), NULL},
        {B("example.org.."), NULL},
        {B(".example.org"), NULL},
        {B("example..org"), NULL},
        {B(L63 "1.org"), NULL}, /* a label of 64 */
        {B(L63 "." L63 "." L63 "." L63), NULL}, /* 255 */
        {B("attacker\0.google.com"), NULL},
        {B("google.com\0"), NULL},
        {B("google.com\0.attacker.example"), NULL},
        {B("exa mple.org"), NULL},
        {B("example.org\n"), NULL},
        {B("example.org\t"), NULL},
        {B("example.org:80"), NULL},
        {B("user@example.org"), NULL},
        {B("example.org/x"), NULL},
        {B("example.org\\"), NULL},
        {B("*.example.org"), NULL},
        {B("ex%61mple.org"), NULL},
        {B("b\xc3\xbc" "cher.example"), NULL},
        {B("example\xef\xbc\x8eorg"), NULL}, /* a full-width dot */
        {B("\x7f.org"), NULL},
        {B("[::1]"), NULL},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        char name[NAME_SIZE];
        int r = name_normalise(cases[i].text, name);
        if ((r == 0) != (cases[i].form != NULL) || (r == 0 && strcmp(name, cases[i].form) != 0))
            fail_msg("case %zu: %d '%s'", i, r, r ? "" : name);
    }
}

static void
a_rule_that_means_nothing_is_refused_with_the_reason(void **state)
{
    static const struct {
        const char *text, *reason; /* NULL: a good one */
    } cases[] = {
        {"example.org", NULL},
        {"Example.ORG.:8080", NULL},
        {"*.example.org", NULL},
        {"192.0.2.7", NULL},
        {"192.0.2.0/24:5432", NULL},
        {"0.0.0.0/0:443", NULL},
        {"127.0.0.1:8080", NULL},
        {"169.254.169.254:80", NULL}, /* whoever lists it wants it */
        {"a.b:65535", NULL},
        {"", "no name"},
        {":80", "no name"},
        {"*", "no name"},
        {"*.", "no name"},
        {"*.*.example.org", "no name"},
        {"a.*.example.org", "no name"},
        {"*example.org", "no name"},
        {"example..org", "no name"},
        {"b\xc3\xbc" "cher.example", "xn--"},
        {"example.org:0", "1 to 65535"},
        {"example.org:65536", "1 to 65535"},
        {"example.org:99999999999999999999", "1 to 65535"},
        {"example.org:", "1 to 65535"},
        {"example.org:http", "1 to 65535"},
        {"example.org:+80", "1 to 65535"},
        {"example.org: 80", "1 to 65535"},
        {"example.org:0x50", "1 to 65535"},
        {"example.org:80-90", "1 to 65535"},
        {"https://example.org", "URL"},
        {"user@example.org", "URL"},
        {"example.org/path", "no IPv4 network"},
        {"::1", "IPv6"},
        {"[::1]:80", "IPv6"},
        {"192.0.2.256", "neither a name nor an IPv4"},
        {"192.0.2", "neither a name nor an IPv4"},
        {"0x7f.1", "neither a name nor an IPv4"},
        {"127.0x1", "neither a name nor an IPv4"},
        {"2130706433", "neither a name nor an IPv4"},
        {"192.0.2.0/33", "/0 to ADDRESS/32"},
        {"192.0.2.0/", "/0 to ADDRESS/32"},
        {"192.0.2.0/-1", "/0 to ADDRESS/32"},
        {"192.0.2.0/24/24", "/0 to ADDRESS/32"},
        {"192.0.2.0/255.255.255.0", "/0 to ADDRESS/32"},
        {"192.0.2.1/24", "bits beyond"},
        {"192.0.02.0/24", "no IPv4 network"},
        {"0.0.0.0", "cannot be allowed"},
        {"0.0.0.0/8", "cannot be allowed"},
        {"224.0.0.1", "cannot be allowed"},
        {"255.255.255.255", "cannot be allowed"},
        {"198.18.0.1", "cannot be allowed"},
        {"198.18.0.0/15", "cannot be allowed"},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        struct rule rule;
        struct err err = {0};
        int r = rule_parse(cases[i].text, &rule, &err);
        if ((r == 0) != (cases[i].reason == NULL) || (r < 0 && !strstr(err.text, cases[i].reason)))
            fail_msg("'%s': %d '%s'", cases[i].text, r, err.text);
    }
}

static void
make_rules(struct rules *rules, const char *const *text, size_t n)
{
    struct err err;

    for (size_t i = 0; i < n; i++)
        if (rules_add(rules, text[i], &err) < 0)
            fail_msg("%s", err.text);
}

static void
names_match_by_whole_labels_and_by_port(void **state)
{
    static const char *const text[] = {"example.org", "*.sub.example.net", "db.example.net:5432"};
    static const struct {
        const char *name;
        uint16_t port;
        int allowed;
    } cases[] = {
        {"example.org", 80, 1},          {"example.org", 443, 1},
        {"example.org", 0, 1},           {"example.org", 8080, 0},
        {"evil-example.org", 443, 0},    {"evil.example.org", 443, 0},
        {"example.org.evil.net", 443, 0}, {"example.or", 443, 0},
        {"a.sub.example.net", 443, 1},   {"a.b.c.sub.example.net", 443, 1},
        {"sub.example.net", 443, 0},     {"evil-sub.example.net", 443, 0},
        {"xsub.example.net", 443, 0},    {"a.sub.example.net.evil", 443, 0},
        {"db.example.net", 5432, 1},     {"db.example.net", 443, 0},
        {"db.example.net", 0, 1},        {"", 443, 0},
    };
    scoped(rules_release) struct rules rules = {0};

    make_rules(&rules, text, countof(text));
    for (size_t i = 0; i < countof(cases); i++)
        if (rules_allow_name(&rules, cases[i].name, cases[i].port) != cases[i].allowed)
            fail_msg("%s:%u", cases[i].name, cases[i].port);
}

static void
only_a_literal_rule_opens_what_the_internet_cannot_reach(void **state)
{
    static const char *const text[] = {"example.org",      "10.1.0.0/16:80", "127.0.0.2:80",
                                       "0.0.0.0/0:80",     "192.0.0.0/2:80", "172.16.0.0/12:80",
                                       "169.254.7.7:8080"};
    static const struct {
        const char *address;
        uint16_t port;
        const char *why; /* NULL: may be connected to */
    } cases[] = {
        {"93.184.216.34", 80, NULL},      {"93.184.216.34", 443, NULL},
        {"10.1.2.3", 80, NULL},           {"10.1.2.3", 443, "private"},
        {"10.2.2.3", 80, "private"},      {"127.0.0.2", 80, NULL},
        {"127.0.0.2", 81, "loopback"},    {"127.0.0.1", 80, "loopback"},
        {"127.255.255.254", 80, "loopback"}, {"172.16.0.1", 80, NULL},
        {"168.63.129.16", 80, "provider"}, {"168.63.129.17", 80, NULL},
        {"172.31.255.255", 80, NULL},     {"172.32.0.1", 80, NULL},
        {"172.31.0.1", 443, "private"},   {"192.168.0.1", 80, "private"},
        {"169.254.169.254", 80, "link-local"}, {"169.254.169.254", 443, "link-local"},
        {"169.254.7.7", 8080, NULL},      {"169.254.7.7", 80, "link-local"},
        {"100.64.0.1", 80, "provider"},   {"100.127.255.255", 80, "provider"},
        {"100.128.0.1", 80, NULL},        {"0.0.0.0", 80, "this network"},
        {"0.1.2.3", 80, "this network"},  {"224.0.0.1", 80, "multicast"},
        {"239.1.1.1", 80, "multicast"},   {"255.255.255.255", 80, "reserved"},
        {"240.0.0.1", 80, "reserved"},    {"192.0.0.8", 80, "reserved"},
        {"198.18.0.1", 80, "of the sandbox"}, {"198.19.255.255", 80, "of the sandbox"},
        {"198.20.0.1", 80, NULL},         {"2606:2800:220:1::1", 443, NULL},
        {"::1", 80, "loopback"},          {"::", 80, "reserved"},
        {"::ffff:127.0.0.1", 80, "loopback"}, {"::ffff:169.254.169.254", 443, "link-local"},
        {"::ffff:10.1.2.3", 443, "private"}, {"::ffff:93.184.216.34", 443, NULL},
        {"::127.0.0.1", 80, "reserved"},  {"64:ff9b::10.9.9.9", 80, "private"},
        {"64:ff9b::93.184.216.34", 80, NULL}, {"64:ff9b:1::1", 80, "reserved"},
        {"fc00::1", 80, "private"},       {"fdff:ffff::1", 80, "private"},
        {"fe80::1", 80, "link-local"},    {"febf::1", 80, "link-local"},
        {"fec0::1", 80, "reserved"},      {"ff02::1", 80, "multicast"},
        {"2002:7f00:1::", 80, "reserved"}, {"2001:0:1::", 80, "reserved"},
        {"100::1", 80, "reserved"},       {"2001:db9::1", 80, NULL},
    };
    scoped(rules_release) struct rules rules = {0};

    make_rules(&rules, text, countof(text));
    for (size_t i = 0; i < countof(cases); i++) {
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        int is_v4 = inet_pton(AF_INET, cases[i].address, &v4.sin_addr) == 1;
        const char *why;
        assert_true(is_v4 || inet_pton(AF_INET6, cases[i].address, &v6.sin6_addr) == 1);
        why = rules_refuse_address(&rules, is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6,
                                   cases[i].port);
        if ((why == NULL) != (cases[i].why == NULL) || (why && !strstr(why, cases[i].why)))
            fail_msg("%s:%u: %s", cases[i].address, cases[i].port, why ? why : "allowed");
    }
}

static void
all_is_every_name_and_port_and_opens_nothing_to_the_guard(void **state)
{
    static const char *const text[] = {RULES_ALL, "10.1.2.3:8080"};
    scoped(rules_release) struct rules rules = {0}, none = {0};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a010203)};
    uint16_t ports[PORTS_MAX];
    struct err err;

    make_rules(&rules, text, countof(text));
    assert_true(rules_any(&rules));
    assert_false(rules_any(&none));
    assert_true(rules_allow_name(&rules, "example.org", 1));
    assert_true(rules_allow_name(&rules, "example.org", 0));
    assert_true(rules_allow_address(&rules, 0x5db8d822, 65535));
    assert_false(rules_allow_address(&none, 0x5db8d822, 443));
    assert_int_equal(rules_ports(&rules, ports), 1);
    assert_non_null(rules_refuse_address(&rules, (struct sockaddr *)&at, 80));
    assert_null(rules_refuse_address(&rules, (struct sockaddr *)&at, 8080));
    assert_false(rules_list_address(&rules, (struct sockaddr *)&at, 80));
    assert_true(rules_list_address(&rules, (struct sockaddr *)&at, 8080));
    for (size_t i = 0; i < 3; i++) /* only as it is */
        assert_int_equal(rules_add(&none, ((const char *[]){"*:80", "*.", "**"})[i], &err), -1);
    assert_false(none.all);
}

static void
rules_and_ports_are_bounded(void **state)
{
    scoped(rules_release) struct rules same = {0}, different = {0};
    struct err err;
    size_t n;

    for (n = 0; rules_add(&same, "example.org", &err) == 0; n++)
        ;
    assert_int_equal(n, RULES_MAX);
    for (n = 0; n <= PORTS_MAX; n++) {
        char text[32];
        uint16_t ports[PORTS_MAX];
        snprintf(text, sizeof text, "example.org:%zu", 1000 + n);
        if (rules_add(&different, text, &err) < 0)
            break;
        assert_int_equal(rules_ports(&different, ports), n + 1);
    }
    assert_true(n < PORTS_MAX);
    assert_non_null(strstr(err.text, "ports"));
}

static void
dns_servers(void **state)
{
    static const struct {
        const char *text;
        int good;
    } cases[] = {
        {"9.9.9.9", 1},   {"127.0.0.1:5353", 1}, {"[::1]:53", 1},   {"[2620:fe::fe]", 1},
        {"", 0},          {"dns.example", 0},    {"9.9.9.9:0", 0},  {"9.9.9.9:65536", 0},
        {"9.9.9.9:", 0},  {"9.9.9.9,8.8.8.8", 0}, {"::1", 0},       {"[::1", 0},
        {"[::1]x", 0},    {"9.9.9.9 ", 0},       {"[9.9.9.9]", 0},
    };
    struct err err;

    for (size_t i = 0; i < countof(cases); i++)
        if ((resolver_check(cases[i].text, &err) == 0) != cases[i].good)
            fail_msg("'%s'", cases[i].text);
}

/*** Aliases ***/

static void
an_alias_is_stable_and_the_table_bounded(void **state)
{
    struct aliases *a = calloc(1, sizeof *a);
    uint32_t first, kept, address;
    char name[32];

    assert_non_null(a);
    first = aliases_address(a, "first.example");
    kept = aliases_address(a, "kept.example");
    assert_int_equal(first & ALIAS_MASK, ALIAS_NETWORK);
    assert_int_not_equal(first, kept);
    assert_int_equal(aliases_address(a, "first.example"), first);
    assert_string_equal(aliases_name(a, first), "first.example");
    for (int i = 0; i < 3 * ALIASES; i++) {
        snprintf(name, sizeof name, "n%d.example", i);
        address = aliases_address(a, name);
        assert_int_equal(address & ALIAS_MASK, ALIAS_NETWORK);
        assert_int_not_equal(address, first); /* not given away while others are unused */
        assert_int_equal(aliases_address(a, "kept.example"), kept);
    }
    assert_null(aliases_name(a, first)); /* forgotten, and not another's */
    assert_null(aliases_name(a, 0));
    assert_null(aliases_name(a, ALIAS_NETWORK));
    for (int i = 0; i < 140000; i++) { /* once around */
        snprintf(name, sizeof name, "m%d.example", i);
        address = aliases_address(a, name);
        assert_string_equal(aliases_name(a, address), name);
    }
    assert_int_equal(aliases_address(a, "new.example") & ALIAS_MASK, ALIAS_NETWORK);
    free(a);
}

/*** DNS ***/

#define Q_HEAD "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
#define Q_EDNS "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01"
#define A_IN "\x00\x01\x00\x01"
#define OPT "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"

static void
queries_are_read_or_refused(void **state)
{
    static const struct {
        const char *claim;
        struct bytes packet;
        int code;
        const char *name;
        uint16_t type;
    } cases[] = {
        {"a query", B(Q_HEAD "\7example\3org\0" A_IN), DNS_OK, "example.org", 1},
        {"mixed case is folded", B(Q_HEAD "\7eXAmple\3ORG\0" A_IN), DNS_OK, "example.org", 1},
        {"AAAA", B(Q_HEAD "\7example\3org\0\x00\x1c\x00\x01"), DNS_OK, "example.org", 28},
        {"EDNS is passed over", B(Q_EDNS "\7example\3org\0" A_IN OPT), DNS_OK, "example.org", 1},
        {"the root is no name", B(Q_HEAD "\0" A_IN), DNS_OK, "", 1},
        {"a NUL in a label is no name", B(Q_HEAD "\11attacker\0\6google\3com\0" A_IN), DNS_OK, "", 1},
        {"a dot in a label is no name", B(Q_HEAD "\13example.org\0" A_IN), DNS_OK, "", 1},
        {"a dot does not end a label", B(Q_HEAD "\1.\7example\3org\0" A_IN), DNS_OK, "", 1},
        {"bytes above ASCII", B(Q_HEAD "\3\xff\xfe\xfd\3org\0" A_IN), DNS_OK, "", 1},
        {"another class", B(Q_HEAD "\7example\3org\0\x00\x01\x00\x03"), DNS_NOT_IMPLEMENTED, "example.org", 1},
        {"nothing", B(""), -1, NULL, 0},
        {"a cut head", B("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00"), -1, NULL, 0},
        {"an answer", B("\x12\x34\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\7example\3org\0" A_IN), -1, NULL, 0},
        {"an update", B("\x12\x34\x28\x00\x00\x01\x00\x00\x00\x00\x00\x00\7example\3org\0" A_IN), DNS_NOT_IMPLEMENTED, "", 0},
        {"no question", B("\x12\x34\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"), DNS_FORMAT_ERROR, "", 0},
        {"two questions", B("\x12\x34\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00\1a\0" A_IN "\1b\0" A_IN), DNS_FORMAT_ERROR, "", 0},
        {"records in a query", B("\x12\x34\x01\x00\x00\x01\x00\x01\x00\x00\x00\x00\1a\0" A_IN), DNS_FORMAT_ERROR, "", 0},
        {"a pointer to itself", B(Q_HEAD "\xc0\x0c" A_IN), DNS_FORMAT_ERROR, "", 0},
        {"a pointer after a label", B(Q_HEAD "\1a\xc0\x0c" A_IN), DNS_FORMAT_ERROR, "", 0},
        {"a pointer beyond the end", B(Q_HEAD "\xff\xff" A_IN), DNS_FORMAT_ERROR, "", 0},
        {"a kind of label that nobody uses", B(Q_HEAD "\x41zz\0" A_IN), DNS_FORMAT_ERROR, "", 0},
        {"a label beyond the end", B(Q_HEAD "\77" "abc"), DNS_FORMAT_ERROR, "", 0},
        {"a name without an end", B(Q_HEAD "\7example\3org"), DNS_FORMAT_ERROR, "", 0},
        {"a name without a type", B(Q_HEAD "\7example\3org\0"), DNS_FORMAT_ERROR, "", 0},
        {"a cut class", B(Q_HEAD "\7example\3org\0\x00\x01\x00"), DNS_FORMAT_ERROR, "", 0},
        {"63 + 63 + 63 + 63",
         B(Q_HEAD "\77" L63 "\77" L63 "\77" L63 "\77" L63 "\0" A_IN), DNS_FORMAT_ERROR, "", 0},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        struct dns_query q;
        int code = dns_read(cases[i].packet.data, cases[i].packet.len, &q);
        if (code != cases[i].code)
            fail_msg("%s: %d", cases[i].claim, code);
        if (cases[i].name && (strcmp(q.name, cases[i].name) != 0 || q.type != cases[i].type))
            fail_msg("%s: '%s' type %u", cases[i].claim, q.name, q.type);
    }
}

static void
an_answer_repeats_the_question_as_it_came(void **state)
{
    static const struct bytes query = B(Q_EDNS "\7eXample\3org\0" A_IN OPT);
    static const struct bytes answer =
        B("\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\7eXample\3org\0" A_IN
          "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc6\x12\x00\x01");
    static const struct bytes missing =
        B("\x12\x34\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00\7eXample\3org\0" A_IN);
    static const struct bytes broken = B("\x12\x34\x81\x81\x00\x00\x00\x00\x00\x00\x00\x00");
    struct dns_query q;
    uint8_t into[DNS_PACKET];

    assert_int_equal(dns_read(query.data, query.len, &q), DNS_OK);
    assert_int_equal(dns_answer(&q, DNS_OK, 0xc6120001, into), answer.len);
    assert_memory_equal(into, answer.data, answer.len);
    assert_int_equal(dns_answer(&q, DNS_NO_NAME, 0, into), missing.len);
    assert_memory_equal(into, missing.data, missing.len);
    assert_int_equal(dns_read(query.data, 20, &q), DNS_FORMAT_ERROR);
    assert_int_equal(dns_answer(&q, DNS_FORMAT_ERROR, 0, into), broken.len);
    assert_memory_equal(into, broken.data, broken.len);
}

/*** ClientHello ***/

/* As Python 3.11 with OpenSSL 3.0 sends them. */
static const uint8_t openssl_hello[] = {
    0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 0xfb, 0xf2, 0x69,
    0x63, 0x5d, 0x60, 0x97, 0x9d, 0xf9, 0x5d, 0xbb, 0x20, 0x2e, 0x54, 0xca, 0x95, 0xbc,
    0x5c, 0x99, 0x0b, 0xca, 0x62, 0x84, 0xfb, 0x58, 0x94, 0xa2, 0x34, 0xd9, 0x63, 0xdb,
    0x89, 0x20, 0xea, 0xf0, 0x49, 0x38, 0xbd, 0x08, 0x7a, 0x73, 0x67, 0x89, 0x0c, 0x52,
    0xbc, 0x9f, 0xca, 0x5e, 0x80, 0xc2, 0x2e, 0x8d, 0x2e, 0x7e, 0x0c, 0x74, 0x06, 0x44,
    0x15, 0xff, 0x1e, 0x89, 0x89, 0x17, 0x00, 0x24, 0x13, 0x02, 0x13, 0x03, 0x13, 0x01,
    0xc0, 0x2c, 0xc0, 0x30, 0xc0, 0x2b, 0xc0, 0x2f, 0xcc, 0xa9, 0xcc, 0xa8, 0xc0, 0x24,
    0xc0, 0x28, 0xc0, 0x23, 0xc0, 0x27, 0x00, 0x9f, 0x00, 0x9e, 0x00, 0x6b, 0x00, 0x67,
    0x00, 0xff, 0x01, 0x00, 0x01, 0x8f, 0x00, 0x00, 0x00, 0x17, 0x00, 0x15, 0x00, 0x00,
    0x12, 0x4d, 0x69, 0x72, 0x72, 0x6f, 0x72, 0x2e, 0x45, 0x78, 0x61, 0x6d, 0x70, 0x6c,
    0x65, 0x2e, 0x6f, 0x72, 0x67, 0x00, 0x0b, 0x00, 0x04, 0x03, 0x00, 0x01, 0x02, 0x00,
    0x0a, 0x00, 0x16, 0x00, 0x14, 0x00, 0x1d, 0x00, 0x17, 0x00, 0x1e, 0x00, 0x19, 0x00,
    0x18, 0x01, 0x00, 0x01, 0x01, 0x01, 0x02, 0x01, 0x03, 0x01, 0x04, 0x00, 0x23, 0x00,
    0x00, 0x00, 0x16, 0x00, 0x00, 0x00, 0x17, 0x00, 0x00, 0x00, 0x0d, 0x00, 0x2a, 0x00,
    0x28, 0x04, 0x03, 0x05, 0x03, 0x06, 0x03, 0x08, 0x07, 0x08, 0x08, 0x08, 0x09, 0x08,
    0x0a, 0x08, 0x0b, 0x08, 0x04, 0x08, 0x05, 0x08, 0x06, 0x04, 0x01, 0x05, 0x01, 0x06,
    0x01, 0x03, 0x03, 0x03, 0x01, 0x03, 0x02, 0x04, 0x02, 0x05, 0x02, 0x06, 0x02, 0x00,
    0x2b, 0x00, 0x05, 0x04, 0x03, 0x04, 0x03, 0x03, 0x00, 0x2d, 0x00, 0x02, 0x01, 0x01,
    0x00, 0x33, 0x00, 0x26, 0x00, 0x24, 0x00, 0x1d, 0x00, 0x20, 0x93, 0x8c, 0x4f, 0xe1,
    0xe5, 0xaa, 0x8e, 0x28, 0xfc, 0xb4, 0x30, 0xa2, 0x3c, 0x6f, 0x63, 0xac, 0xdf, 0x78,
    0xfa, 0x50, 0x25, 0x7c, 0x53, 0x19, 0xfb, 0xd1, 0x85, 0x21, 0x05, 0x11, 0x4f, 0x03,
    0x00, 0x15, 0x00, 0xdb, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
};

static const uint8_t openssl_unnamed[] = {
    0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 0x5c, 0x19, 0x89,
    0x0c, 0x62, 0x9a, 0x45, 0x29, 0xa4, 0x40, 0x3e, 0xdc, 0x6b, 0x3a, 0xf7, 0x27, 0xd6,
    0x82, 0x57, 0x2f, 0xe1, 0x6b, 0xea, 0x5d, 0xf0, 0x98, 0xf3, 0xcb, 0x82, 0x5f, 0xd8,
    0xa9, 0x20, 0xca, 0x3f, 0x0b, 0xe4, 0x03, 0xa8, 0xf2, 0xe1, 0xe3, 0xe8, 0xd5, 0xe8,
    0xf1, 0x67, 0xc6, 0x3e, 0x36, 0x2e, 0x63, 0x13, 0x61, 0xf3, 0x14, 0x75, 0xf5, 0xe0,
    0x9d, 0xbb, 0xdd, 0x0a, 0x42, 0x4a, 0x00, 0x24, 0x13, 0x02, 0x13, 0x03, 0x13, 0x01,
    0xc0, 0x2c, 0xc0, 0x30, 0xc0, 0x2b, 0xc0, 0x2f, 0xcc, 0xa9, 0xcc, 0xa8, 0xc0, 0x24,
    0xc0, 0x28, 0xc0, 0x23, 0xc0, 0x27, 0x00, 0x9f, 0x00, 0x9e, 0x00, 0x6b, 0x00, 0x67,
    0x00, 0xff, 0x01, 0x00, 0x01, 0x8f, 0x00, 0x0b, 0x00, 0x04, 0x03, 0x00, 0x01, 0x02,
    0x00, 0x0a, 0x00, 0x16, 0x00, 0x14, 0x00, 0x1d, 0x00, 0x17, 0x00, 0x1e, 0x00, 0x19,
    0x00, 0x18, 0x01, 0x00, 0x01, 0x01, 0x01, 0x02, 0x01, 0x03, 0x01, 0x04, 0x00, 0x23,
    0x00, 0x00, 0x00, 0x16, 0x00, 0x00, 0x00, 0x17, 0x00, 0x00, 0x00, 0x0d, 0x00, 0x2a,
    0x00, 0x28, 0x04, 0x03, 0x05, 0x03, 0x06, 0x03, 0x08, 0x07, 0x08, 0x08, 0x08, 0x09,
    0x08, 0x0a, 0x08, 0x0b, 0x08, 0x04, 0x08, 0x05, 0x08, 0x06, 0x04, 0x01, 0x05, 0x01,
    0x06, 0x01, 0x03, 0x03, 0x03, 0x01, 0x03, 0x02, 0x04, 0x02, 0x05, 0x02, 0x06, 0x02,
    0x00, 0x2b, 0x00, 0x05, 0x04, 0x03, 0x04, 0x03, 0x03, 0x00, 0x2d, 0x00, 0x02, 0x01,
    0x01, 0x00, 0x33, 0x00, 0x26, 0x00, 0x24, 0x00, 0x1d, 0x00, 0x20, 0x37, 0x78, 0x40,
    0x22, 0x5a, 0x4f, 0x68, 0x3c, 0x46, 0x52, 0xde, 0xcb, 0x60, 0xad, 0x72, 0xe6, 0xb7,
    0xf6, 0x33, 0xf4, 0xa1, 0xd6, 0xb7, 0x43, 0x8a, 0x7b, 0x81, 0xa4, 0x69, 0x0a, 0x21,
    0x69, 0x00, 0x15, 0x00, 0xf6, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
};

static void
the_server_name_of_a_real_client_is_found(void **state)
{
    char name[NAME_SIZE];

    assert_int_equal(hello_read(openssl_hello, sizeof openssl_hello, name), HELLO_NAMED);
    assert_string_equal(name, "mirror.example.org");
    assert_int_equal(hello_read(openssl_unnamed, sizeof openssl_unnamed, name), HELLO_UNNAMED);
}

static void
a_hello_in_pieces_is_waited_for(void **state)
{
    uint8_t pieces[2 * sizeof openssl_hello + 64];
    char name[NAME_SIZE];
    size_t n = 0;

    assert_int_equal(hello_read(openssl_hello, 0, name), HELLO_MORE);
    for (size_t len = 1; len < sizeof openssl_hello; len++)
        assert_int_equal(hello_read(openssl_hello, len, name), HELLO_MORE);
    /* The same in records of 100 bytes. */
    for (size_t at = 5; at < sizeof openssl_hello; at += 100) {
        size_t len = sizeof openssl_hello - at < 100 ? sizeof openssl_hello - at : 100;
        memcpy(pieces + n, "\x16\x03\x01\x00", 4);
        pieces[n + 4] = (uint8_t)len;
        memcpy(pieces + n + 5, openssl_hello + at, len);
        n += 5 + len;
    }
    for (size_t len = 0; len < n; len++)
        assert_int_equal(hello_read(pieces, len, name), HELLO_MORE);
    assert_int_equal(hello_read(pieces, n, name), HELLO_NAMED);
    assert_string_equal(name, "mirror.example.org");
}

/* A ClientHello with these extensions, of which `lie` is added to the length at offset `at`. */
static enum hello
hello_with(struct bytes extensions, char name[static NAME_SIZE], size_t at, int lie)
{
    uint8_t b[600] = {0x16, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3};
    size_t n = 11 + 32;

    memcpy(b + n, "\0\0\2\x13\1\1\0", 7); /* session, one suite, compression */
    n += 7;
    b[n++] = (uint8_t)(extensions.len >> 8);
    b[n++] = (uint8_t)extensions.len;
    memcpy(b + n, extensions.data, extensions.len);
    n += extensions.len;
    b[3] = (uint8_t)((n - 5) >> 8);
    b[4] = (uint8_t)(n - 5);
    b[7] = (uint8_t)((n - 9) >> 8);
    b[8] = (uint8_t)(n - 9);
    b[at] = (uint8_t)(b[at] + lie);
    return hello_read(b, n, name);
}

#define SNI(name_len, list_len, ext_len, name) "\0\0\0" ext_len "\0" list_len "\0\0" name_len name
#define GOOD_SNI SNI("\5", "\10", "\12", "a.org")

static void
hostile_hellos(void **state)
{
    static const struct {
        const char *claim;
        struct bytes extensions;
        size_t at;
        int lie;
        enum hello verdict;
    } cases[] = {
        {"a good one", B(GOOD_SNI), 0, 0, HELLO_NAMED},
        {"upper case", B(SNI("\5", "\10", "\12", "A.Org")), 0, 0, HELLO_NAMED},
        {"others around it", B("\0\x17\0\0" GOOD_SNI "\xff\1\0\1\0"), 0, 0, HELLO_NAMED},
        {"no server name", B("\0\x17\0\0"), 0, 0, HELLO_UNNAMED},
        {"no extensions", B(""), 0, 0, HELLO_UNNAMED},
        {"twice", B(GOOD_SNI GOOD_SNI), 0, 0, HELLO_BROKEN},
        {"two names in one list", B("\0\0\0\x12\0\x10\0\0\5a.org\0\0\5b.org"), 0, 0, HELLO_BROKEN},
        {"an empty list", B("\0\0\0\2\0\0"), 0, 0, HELLO_BROKEN},
        {"an empty extension", B("\0\0\0\0"), 0, 0, HELLO_BROKEN},
        {"another type of name", B("\0\0\0\12\0\10\1\0\5a.org"), 0, 0, HELLO_BROKEN},
        {"a NUL in the name", B(SNI("\5", "\10", "\12", "a\0org")), 0, 0, HELLO_BROKEN},
        {"a name longer than its list", B(SNI("\6", "\10", "\12", "a.org")), 0, 0, HELLO_BROKEN},
        {"a name shorter than its list", B(SNI("\4", "\10", "\12", "a.org")), 0, 0, HELLO_BROKEN},
        {"a list longer than its extension", B(SNI("\5", "\11", "\12", "a.org")), 0, 0, HELLO_BROKEN},
        {"a list shorter than its extension", B(SNI("\5", "\7", "\12", "a.org")), 0, 0, HELLO_BROKEN},
        {"an extension beyond the end", B(SNI("\5", "\10", "\13", "a.org")), 0, 0, HELLO_BROKEN},
        {"half an extension", B("\0\x17\0"), 0, 0, HELLO_BROKEN},
        {"extensions shorter than the body", B(GOOD_SNI), 51, -1, HELLO_BROKEN},
        {"extensions longer than the body", B(GOOD_SNI), 51, 1, HELLO_BROKEN},
        {"a session beyond the end", B(GOOD_SNI), 43, 0xff, HELLO_BROKEN},
        {"suites beyond the end", B(GOOD_SNI), 44, 0x7f, HELLO_BROKEN},
        {"a body that is cut", B(GOOD_SNI), 8, -1, HELLO_BROKEN},
        {"a body that goes on", B(GOOD_SNI), 8, 1, HELLO_MORE},
        {"a body above the bound", B(GOOD_SNI), 6, 1, HELLO_BROKEN},
        {"another handshake message", B(GOOD_SNI), 5, 1, HELLO_BROKEN},
        {"an empty record", B(GOOD_SNI), 4, -61, HELLO_BROKEN},
        {"an alert", B(GOOD_SNI), 0, -1, HELLO_OTHER},
        {"another protocol that begins so", B(GOOD_SNI), 1, 1, HELLO_OTHER},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        char name[NAME_SIZE] = "";
        enum hello verdict = hello_with(cases[i].extensions, name, cases[i].at, cases[i].lie);
        if (verdict != cases[i].verdict || (verdict == HELLO_NAMED && strcmp(name, "a.org") != 0))
            fail_msg("%s: %d '%s'", cases[i].claim, verdict, name);
    }
}

static void
what_is_not_tls_passes_at_once(void **state)
{
    char name[NAME_SIZE];

    assert_int_equal(hello_read((const uint8_t *)"GET / HTTP/1.1\r\n", 16, name), HELLO_OTHER);
    assert_int_equal(hello_read((const uint8_t *)"S", 1, name), HELLO_OTHER);
    assert_int_equal(hello_read((const uint8_t *)"\0\0", 2, name), HELLO_OTHER);
}

static void
a_hello_without_end_is_not_waited_for(void **state)
{
    uint8_t *flood = malloc(HELLO_MAX);
    char name[NAME_SIZE];

    assert_non_null(flood);
    for (size_t at = 0; at + 6 <= HELLO_MAX; at += 6)
        memcpy(flood + at, "\x16\3\1\0\1\1", 6); /* a byte in each record */
    assert_int_equal(hello_read(flood, HELLO_MAX, name), HELLO_BROKEN);
    free(flood);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_has_one_form_or_is_none),
        cmocka_unit_test(a_rule_that_means_nothing_is_refused_with_the_reason),
        cmocka_unit_test(names_match_by_whole_labels_and_by_port),
        cmocka_unit_test(only_a_literal_rule_opens_what_the_internet_cannot_reach),
        cmocka_unit_test(all_is_every_name_and_port_and_opens_nothing_to_the_guard),
        cmocka_unit_test(rules_and_ports_are_bounded),
        cmocka_unit_test(dns_servers),
        cmocka_unit_test(an_alias_is_stable_and_the_table_bounded),
        cmocka_unit_test(queries_are_read_or_refused),
        cmocka_unit_test(an_answer_repeats_the_question_as_it_came),
        cmocka_unit_test(the_server_name_of_a_real_client_is_found),
        cmocka_unit_test(a_hello_in_pieces_is_waited_for),
        cmocka_unit_test(hostile_hellos),
        cmocka_unit_test(what_is_not_tls_passes_at_once),
        cmocka_unit_test(a_hello_without_end_is_not_waited_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
