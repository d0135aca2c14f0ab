/* SPDX-License-Identifier: BSD-3-Clause
 *
 * wire.h: the Jupyter wire format (jupyter_client docs/messaging.rst, "The Wire Protocol"),
 * without sockets, and the only holder of the key.
 *
 *     [identity...] "<IDS|MSG>" signature header parent_header metadata content [buffer...]
 *
 * A message is verified over the bytes as they came, before anything of it is parsed. What is
 * sent on (a header as parent, content from the interpreter) is signed as the bytes it is.
 */
#pragma once

#include "kernel/message.h"

#define WIRE_SIGNATURE 129    /* bytes: the longest hex digest (sha512) and a NUL */
#define WIRE_REPLAYS 65536    /* signatures remembered */

struct wire; /* key, session, counters */

/* Takes the key; the caller may forget its own. scheme: "hmac-NAME" with a digest of libcrypto
 * that is in use (md5, sha1, sha224, sha256, sha384, sha512). */
struct wire *wire_new(const char *scheme, const void *key, size_t len, struct err *err);
/* Loads what signatures are made with, and forgets the key itself. To be called before there are sockets: where it has
 * not been, the first signature does it, and aborts where this says why not. */
int wire_prepare(struct wire *wire, struct err *err);
void wire_free(struct wire *wire);

const char *wire_session(const struct wire *wire);

/* Verifies, then parses. Refuses: no delimiter, too few parts, a wrong signature, a signature
 * that was seen before, parts that are not JSON objects, a header without msg_id or msg_type.
 * The signature is remembered only if it was right, so that a forger cannot block a message by
 * sending its signature first. */
int wire_open(struct wire *wire, const struct bytes *frames, size_t n, struct wire_msg *ret,
              struct err *err);

/* Appends a new header of ours. `type` is a literal without anything to escape. */
int wire_header(struct wire *wire, const char *type, struct buf *ret);
/* The msg_id of the last header made, without quotes. */
const char *wire_last_id(const struct wire *wire);

/* Hex signature of four parts; "" without a key. Returns its length. */
size_t wire_sign(struct wire *wire, const struct bytes part[static WIRE_PARTS],
                 char into[static WIRE_SIGNATURE]);

/* Verifies the signature of one part alone, as in a registration (messaging.rst, "Kernel startup
 * handshake"); wire_sign() makes one if the other parts are empty. */
int wire_check(struct wire *wire, struct bytes signature, struct bytes part, struct err *err);

/* Whether this is the key: for who shows it, instead of signing with it. True without one. */
int wire_is_key(const struct wire *wire, struct bytes key);
