/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/upgrade.h"

#include <gnutls/crypto.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SHA1_BYTES 20
#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455, 4.2.2 */

struct pending {
    void (*fn)(void *of, struct upgraded *up);
    void *of;
};

static int
has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    while (list && *list) {
        list += strspn(list, " ,\t");
        size_t n = strcspn(list, " ,\t");
        if (n == len && strncasecmp(list, word, len) == 0)
            return 1;
        list += n;
    }
    return 0;
}

int
upgrade_offers(struct exchange *x, const char *protocol)
{
    return has_word(exchange_header(x, "Sec-WebSocket-Protocol"), protocol);
}

int
upgrade_check(struct exchange *x)
{
    const char *key = exchange_header(x, "Sec-WebSocket-Key"), *version = exchange_header(x, "Sec-WebSocket-Version");
    uint8_t nonce[32];
    size_t len;

    if (!has_word(exchange_header(x, "Upgrade"), "websocket") || !has_word(exchange_header(x, "Connection"), "upgrade")) {
        answer_error(x, 400, "Can \"Upgrade\" only to \"WebSocket\".");
    } else if (!version || strcmp(version, "13") != 0) {
        answer_error(x, 426, "only version 13 of WebSocket is spoken here");
        response_header(x->response, "Sec-WebSocket-Version", "13");
    } else if (!key || strlen(key) > 64 ||
               sodium_base642bin(nonce, sizeof nonce, key, strlen(key), NULL, &len, NULL,
                                 sodium_base64_VARIANT_ORIGINAL) != 0 || len != 16) {
        answer_error(x, 400, "Sec-WebSocket-Key is no 16 bytes in base64");
    } else {
        return 0;
    }
    return -1;
}

static void
on_upgraded(void *of, struct MHD_Connection *connection, void *request, const char *early, size_t len, MHD_socket fd,
            struct MHD_UpgradeResponseHandle *urh)
{
    struct pending *p = of;
    struct upgraded up = {urh, fd, {(const uint8_t *)early, len}};

    p->fn(p->of, &up);
    free(p);
}

void
upgrade_answer(struct exchange *x, const char *protocol, void (*fn)(void *of, struct upgraded *up), void *of)
{
    struct pending *p = malloc(sizeof *p);
    struct MHD_Response *r = p ? MHD_create_response_for_upgrade(on_upgraded, p) : NULL;
    uint8_t digest[SHA1_BYTES];
    char text[128], accept[64];

    snprintf(text, sizeof text, "%s" GUID, exchange_header(x, "Sec-WebSocket-Key"));
    if (!r || gnutls_hash_fast(GNUTLS_DIG_SHA1, text, strlen(text), digest) < 0)
        abort();
    *p = (struct pending){fn, of};
    sodium_bin2base64(accept, sizeof accept, digest, sizeof digest, sodium_base64_VARIANT_ORIGINAL);
    response_header(r, "Upgrade", "websocket");
    response_header(r, "Sec-WebSocket-Accept", accept);
    if (protocol)
        response_header(r, "Sec-WebSocket-Protocol", protocol);
    answer_response(x, MHD_HTTP_SWITCHING_PROTOCOLS, r);
}
