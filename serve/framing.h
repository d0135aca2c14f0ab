/* SPDX-License-Identifier: BSD-3-Clause
 *
 * framing.h: Jupyter messages as WebSockets carry them, in both forms (jupyter_server
 * services/kernels/connection/base.py, and its documentation "WebSocket kernel wire protocols"). Pure.
 *
 * Legacy, if the client asked for no subprotocol: one JSON object of the text frame,
 *
 *     {"channel": "shell", "header": {}, "parent_header": {}, "metadata": {}, "content": {}, "buffers": []}
 *
 * or, with buffers, a binary frame; integers are big-endian, 4 bytes:
 *
 *     | n | offset of the JSON, of each buffer: n in all | JSON | buffer | ... |
 *
 * v1.kernel.websocket.jupyter.org: always binary; integers are little-endian, 8 bytes:
 *
 *     | n | n offsets: start and end of the channel, then the end of each part | channel | header | parent | metadata | content | buffers ... |
 *
 * Parts travel as the JSON that they are. Nothing of an offset is believed: it must lie in the frame, and not
 * before the one in front of it.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

#define FRAMING_V1 "v1.kernel.websocket.jupyter.org"
#define FRAMING_PARTS 4       /* header, parent header, metadata, content */
#define FRAMING_BUFFERS 8192  /* of one message: as many as an interpreter may send (WALL_PARTS) */

struct framing {
    struct bytes channel; /* without quotes; "" if it is not said */
    struct bytes part[FRAMING_PARTS];
    struct bytes *buffer; /* borrowed */
    size_t buffers;
};

/* What a client sent; all is borrowed from `frame`, and buffers lie in the caller's array. Each part is an
 * object of JSON, or -1 with err set: "byte 12: ...". */
int framing_read(struct bytes frame, int v1, int binary, struct bytes buffers[static FRAMING_BUFFERS],
                 struct framing *ret, struct err *err);

/* Appends it as a client gets it. *ret_binary: which kind of frame it goes into. -1 and errno ENOMEM. */
int framing_write(const struct framing *m, int v1, struct buf *ret, int *ret_binary);
