/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_MAX 63
#define LISTED_MASK 0xff000000u /* a wider network names no machine in particular */
static const uint16_t web_ports[] = {80, 443};

/*** Names ***/

static int
fold(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A' + 'a';
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')
        return c;
    return -1;
}

int
name_normalise(struct bytes text, char into[static NAME_SIZE])
{
    size_t len = text.len, label = 0;

    if (len && text.data[len - 1] == '.')
        len--;
    if (len == 0 || len >= NAME_SIZE)
        return -1;
    for (size_t i = 0; i < len; i++) {
        int c = fold(text.data[i]);
        if (text.data[i] == '.') {
            if (label == 0)
                return -1;
            label = 0;
            into[i] = '.';
        } else if (c < 0 || ++label > LABEL_MAX) {
            return -1;
        } else {
            into[i] = (char)c;
        }
    }
    into[len] = 0;
    return label ? 0 : -1;
}

uint32_t
text_hash(const char *text)
{
    uint32_t h = 2166136261u; /* FNV-1a */

    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 16777619u;
    return h;
}

/*** One rule ***/

/* Decimal digits only, so that strtoul's signs, spaces and 0x mean nothing here. */
static int
read_number(struct bytes text, unsigned long max, unsigned long *ret)
{
    unsigned long value = 0;

    if (text.len == 0 || text.len > 5)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return -1;
        value = value * 10 + (unsigned long)(text.data[i] - '0');
    }
    *ret = value;
    return value <= max ? 0 : -1;
}

/* Some programs take "10.1" or "0x7f.1" as an address: a name must not look like one. */
static int
looks_like_address(const char *name)
{
    const char *last = strrchr(name, '.');

    last = last ? last + 1 : name;
    if (last[0] == '0' && last[1] == 'x')
        return last[2 + strspn(last + 2, "0123456789abcdef")] == 0;
    return last[strspn(last, "0123456789")] == 0;
}

static int
read_name(const char *text, struct bytes host, struct rule *r, struct err *err)
{
    r->kind = RULE_NAME;
    if (host.len > 2 && host.data[0] == '*' && host.data[1] == '.') {
        r->kind = RULE_BELOW;
        host = (struct bytes){host.data + 2, host.len - 2};
    }
    if (name_normalise(host, r->name) < 0)
        return err_set(err, EINVAL,
                       "'%s' is no name: letters, digits, '-', '_' and dots, '*.' in front at "
                       "most; other alphabets in their xn-- form",
                       text);
    if (looks_like_address(r->name))
        return err_set(err, EINVAL, "'%s' is neither a name nor an IPv4 address", text);
    return 0;
}

/* Networks that no rule may list: nothing of the internet is there. */
static int
is_never(uint32_t network)
{
    return (network >> 24) == 0 || network >= 0xe0000000u ||
           (network & ALIAS_MASK) == ALIAS_NETWORK;
}

static int
read_network(const char *text, struct bytes host, struct rule *r, struct err *err)
{
    const uint8_t *slash = memchr(host.data, '/', host.len);
    size_t len = slash ? (size_t)(slash - host.data) : host.len;
    unsigned long prefix = 32;
    char address[INET_ADDRSTRLEN];
    struct in_addr in;

    if (len >= sizeof address)
        return slash ? err_set(err, EINVAL, "'%s' is no IPv4 network", text) : 0;
    memcpy(address, host.data, len);
    address[len] = 0;
    if (memchr(address, 0, len) || inet_pton(AF_INET, address, &in) != 1)
        return slash ? err_set(err, EINVAL, "'%s' is no IPv4 network", text) : 0;
    if (slash && read_number((struct bytes){slash + 1, host.len - len - 1}, 32, &prefix) < 0)
        return err_set(err, EINVAL, "'%s': a network is ADDRESS/0 to ADDRESS/32", text);
    r->kind = RULE_NETWORK;
    r->mask = prefix ? ~0u << (32 - prefix) : 0;
    r->network = ntohl(in.s_addr);
    if (r->network & ~r->mask)
        return err_set(err, EINVAL, "'%s': the address has bits beyond /%lu", text, prefix);
    if (prefix >= 4 && is_never(r->network))
        return err_set(err, EINVAL, "'%s' cannot be allowed: no host of the internet is there",
                       text);
    return 1;
}

int
rule_parse(const char *text, struct rule *ret, struct err *err)
{
    struct rule r = {0};
    struct bytes host = bytes_of(text);
    const char *colon = strrchr(text, ':');
    unsigned long port = 0;
    int is_network;

    if (strstr(text, "://") || strchr(text, '@'))
        return err_set(err, EINVAL, "'%s' is a URL; a rule is HOST or HOST:PORT", text);
    if (strchr(text, '[') || (colon && strchr(text, ':') != colon))
        return err_set(err, EINVAL, "'%s': IPv6 addresses cannot be listed", text);
    if (colon) {
        host.len = (size_t)(colon - text);
        if (read_number(bytes_of(colon + 1), UINT16_MAX, &port) < 0 || port == 0)
            return err_set(err, EINVAL, "'%s': a port is 1 to 65535", text);
    }
    r.port = (uint16_t)port;
    is_network = read_network(text, host, &r, err);
    if (is_network < 0 || (!is_network && read_name(text, host, &r, err) < 0))
        return -1;
    *ret = r;
    return 0;
}

/*** All rules ***/

int
rules_add(struct rules *rules, const char *text, struct err *err)
{
    struct rule rule, *item;
    uint16_t ports[PORTS_MAX];

    if (strcmp(text, RULES_ALL) == 0) {
        rules->all = 1;
        return 0;
    }
    if (rule_parse(text, &rule, err) < 0)
        return -1;
    if (rules->len == RULES_MAX)
        return err_set(err, E2BIG, "more than %d rules", RULES_MAX);
    item = realloc(rules->item, (rules->len + 1) * sizeof *item);
    if (!item)
        return err_errno(err, "keep a rule");
    rules->item = item;
    /* One rule can bring two ports. */
    if (rules_ports(rules, ports) > PORTS_MAX - countof(web_ports))
        return err_set(err, E2BIG, "more than %zu different ports", PORTS_MAX - countof(web_ports));
    rules->item[rules->len++] = rule;
    return 0;
}

void
rules_release(struct rules *rules)
{
    free(rules->item);
    *rules = (struct rules){0};
}

int
rules_any(const struct rules *rules)
{
    return rules->all || rules->len > 0;
}

static int
has_port(const struct rule *r, uint16_t port)
{
    return port == 0 || (r->port ? r->port == port : port == web_ports[0] || port == web_ports[1]);
}

/* Whether `name` ends in a dot and `above`. */
static int
is_below(const char *name, const char *above)
{
    size_t len = strlen(name), tail = strlen(above);

    return len > tail + 1 && name[len - tail - 1] == '.' && strcmp(name + len - tail, above) == 0;
}

int
rules_allow_name(const struct rules *rules, const char *name, uint16_t port)
{
    for (size_t i = 0; i < rules->len; i++) {
        const struct rule *r = &rules->item[i];
        if (has_port(r, port) && ((r->kind == RULE_NAME && strcmp(r->name, name) == 0) ||
                                  (r->kind == RULE_BELOW && is_below(name, r->name))))
            return 1;
    }
    return rules->all;
}

int
rules_allow_address(const struct rules *rules, uint32_t address, uint16_t port)
{
    for (size_t i = 0; i < rules->len; i++) {
        const struct rule *r = &rules->item[i];
        if (r->kind == RULE_NETWORK && has_port(r, port) && (address & r->mask) == r->network)
            return 1;
    }
    return rules->all;
}

static size_t
add_port(uint16_t *ports, size_t n, uint16_t port)
{
    for (size_t i = 0; i < n; i++)
        if (ports[i] == port)
            return n;
    if (n < PORTS_MAX)
        ports[n++] = port;
    return n;
}

size_t
rules_ports(const struct rules *rules, uint16_t ret[static PORTS_MAX])
{
    size_t n = 0;

    for (size_t i = 0; i < rules->len; i++) {
        if (rules->item[i].port)
            n = add_port(ret, n, rules->item[i].port);
        else
            for (size_t w = 0; w < countof(web_ports); w++)
                n = add_port(ret, n, web_ports[w]);
    }
    return n;
}

/*** The guard ***/

/* IANA's registry of special-purpose addresses, as far as a machine could have something there
 * that the internet cannot reach. */
static const struct special {
    uint32_t network, mask;
    const char *what;
} specials[] = {
    {0x00000000, 0xff000000, "an address of this network"},      /* 0.0.0.0/8 */
    {0x0a000000, 0xff000000, "a private address"},               /* 10.0.0.0/8 */
    {0x64400000, 0xffc00000, "an address of a provider's network"}, /* 100.64.0.0/10 */
    {0x7f000000, 0xff000000, "a loopback address"},              /* 127.0.0.0/8 */
    {0xa9fe0000, 0xffff0000, "a link-local address"},            /* 169.254.0.0/16, metadata */
    {0xa83f8110, 0xffffffff, "an address of a provider's network"}, /* 168.63.129.16, Azure's own */
    {0xac100000, 0xfff00000, "a private address"},               /* 172.16.0.0/12 */
    {0xc0000000, 0xffffff00, "a reserved address"},              /* 192.0.0.0/24 */
    {0xc0a80000, 0xffff0000, "a private address"},               /* 192.168.0.0/16 */
    {ALIAS_NETWORK, ALIAS_MASK, "an address of the sandbox"},    /* 198.18.0.0/15 */
    {0xe0000000, 0xf0000000, "a multicast address"},             /* 224.0.0.0/4 */
    {0xf0000000, 0xf0000000, "a reserved address"},              /* 240.0.0.0/4, broadcast */
};

static const char *
refuse_v4(const struct rules *rules, uint32_t address, uint16_t port)
{
    for (size_t s = 0; s < countof(specials); s++) {
        const struct special *is = &specials[s];
        if ((address & is->mask) != is->network)
            continue;
        for (size_t i = 0; i < rules->len; i++) {
            const struct rule *r = &rules->item[i];
            /* The rule is at least as narrow as the range that it opens. Nothing that
             * is_never() passed rule_parse(). */
            if (r->kind == RULE_NETWORK && has_port(r, port) &&
                (address & r->mask) == r->network && !(is->mask & ~r->mask))
                return NULL;
        }
        return is->what;
    }
    return NULL;
}

/* ::ffff:a.b.c.d is the IPv4 address itself, 64:ff9b::a.b.c.d what NAT64 makes of it. */
static int
find_v4(const struct sockaddr *address, uint32_t *ret)
{
    static const uint8_t mapped[12] = {[10] = 0xff, 0xff}, nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    const uint8_t *a = ((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr;

    if (address->sa_family == AF_INET) {
        *ret = ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr);
        return 1;
    }
    if (address->sa_family != AF_INET6)
        return 0;
    if (memcmp(a, mapped, sizeof mapped) != 0 && memcmp(a, nat64, sizeof nat64) != 0)
        return 0;
    *ret = (uint32_t)a[12] << 24 | (uint32_t)a[13] << 16 | (uint32_t)a[14] << 8 | a[15];
    return 1;
}

static const char *
refuse_v6(const uint8_t a[static 16])
{
    static const uint8_t loopback[16] = {[15] = 1};

    if (memcmp(a, loopback, sizeof loopback) == 0)
        return "a loopback address";
    if ((a[0] & 0xfe) == 0xfc)
        return "a private address";
    if (a[0] == 0xfe && (a[1] & 0xc0) == 0x80)
        return "a link-local address";
    if (a[0] == 0xff)
        return "a multicast address";
    /* Outside of 2000::/3 nothing is assigned to hosts; 2001::/23 and 2002::/16 hold tunnels,
     * in which an IPv4 address hides. */
    if ((a[0] & 0xe0) != 0x20 || (a[0] == 0x20 && a[1] == 0x01 && a[2] < 2) ||
        (a[0] == 0x20 && a[1] == 0x02))
        return "a reserved address";
    return NULL;
}

const char *
rules_refuse_address(const struct rules *rules, const struct sockaddr *address, uint16_t port)
{
    uint32_t v4;

    if (find_v4(address, &v4))
        return refuse_v4(rules, v4, port);
    if (address->sa_family == AF_INET6)
        return refuse_v6(((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr);
    return "no internet address";
}

int
rules_list_address(const struct rules *rules, const struct sockaddr *address, uint16_t port)
{
    uint32_t v4;

    if (!find_v4(address, &v4))
        return 0;
    for (size_t i = 0; i < rules->len; i++)
        if (rules->item[i].mask >= LISTED_MASK && has_port(&rules->item[i], port) &&
            (v4 & rules->item[i].mask) == rules->item[i].network)
            return 1; /* the mask of a name is 0 */
    return 0;
}

int
resolver_check(const char *text, struct err *err)
{
    char host[INET6_ADDRSTRLEN];
    struct in6_addr any;
    int is_v6 = *text == '[';
    const char *from = text + is_v6, *end = from + strcspn(from, is_v6 ? "]" : ":");
    size_t len = (size_t)(end - from);
    unsigned long port = 0;

    if (len < sizeof host && (!is_v6 || *end == ']')) {
        memcpy(host, from, len);
        host[len] = 0;
        end += is_v6;
        if (inet_pton(is_v6 ? AF_INET6 : AF_INET, host, &any) == 1 &&
            (!*end ||
             (*end == ':' && read_number(bytes_of(end + 1), UINT16_MAX, &port) == 0 && port)))
            return 0;
    }
    return err_set(err, EINVAL, "'%s' is no DNS server: ADDRESS or ADDRESS:PORT", text);
}
