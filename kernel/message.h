/* SPDX-License-Identifier: BSD-3-Clause
 *
 * message.h: a Jupyter message without its signature (jupyter_client docs/messaging.rst): what it is made
 * of, and headers for those that we send. wire.h signs; the command line needs no more than this.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

#define WIRE_PROTOCOL "5.6"   /* everywhere: header, kernel_info, kernelspec */
#define WIRE_DELIMITER "<IDS|MSG>"

enum wire_part { WIRE_HEADER, WIRE_PARENT, WIRE_METADATA, WIRE_CONTENT, WIRE_PARTS };

/* A message of which it is known who sent it. All bytes are borrowed from its frames. */
struct wire_msg {
    struct bytes part[WIRE_PARTS]; /* JSON objects that json_check() accepted */
    struct bytes msg_id;           /* JSON string, with its quotes */
    struct bytes msg_type;         /* likewise */
    size_t first_identity, identities;
    size_t first_buffer, buffers; /* indexes into the frames */
};

/* Where the delimiter is. -1: nowhere, or with too few frames behind it. */
int wire_delimiter(const struct bytes *frames, size_t n, size_t *ret, struct err *err);
/* What the frames around a delimiter say; the signature is not looked at. Refuses parts that are not JSON
 * objects, and a header without msg_id or msg_type; content is left to who knows what it should be. */
int wire_parse(const struct bytes *frames, size_t delimiter, size_t n, struct wire_msg *ret, struct err *err);
/* Both: of a message whose sender is known by the socket that it came through. */
int wire_read(const struct bytes *frames, size_t n, struct wire_msg *ret, struct err *err);

/* Who makes headers. */
struct sender {
    char session[37];
    uint64_t count;
    char last_id[64]; /* of the last header made, without quotes */
};
/* libsodium has been started. */
void sender_init(struct sender *s);
/* Appends a new header. `type` is a literal without anything to escape. */
int sender_header(struct sender *s, const char *type, struct buf *ret);
