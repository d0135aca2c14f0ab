/* SPDX-License-Identifier: BSD-3-Clause
 *
 * operations.h: what wall/operations.def lists, as requests of HTTP:
 *
 *     POST /api/kernels/ID/sandbox/NAME          parameters as an object of JSON; the result as one
 *     POST /api/kernels/ID/sandbox/NAME?stream=1 lines of JSON (NDJSON): {"event": ...} as they come, at last
 *                                                {"result": ...} or {"error": ...}
 *     GET  /api/kernels/ID/sandbox/files?path=P  the bytes of a file; Range is honoured
 *     PUT  /api/kernels/ID/sandbox/files?path=P  its new bytes, of any number; until all are there the old file stays
 *
 * Buffers of a result are base64 in "buffers". An error has "code" and "suggestion" beside Jupyter's members.
 */
#pragma once

#include "serve/calls.h"

/* The result of an operation's reply, or J_NONE's bytes when it was answered that there is none. */
int operation_result(struct exchange *x, struct heard *h, struct bytes *ret);
/* The status of HTTP for a code of wall/op_errors.def. */
unsigned operation_status(struct bytes code);
/* The kernel of the path, alive; NULL: answered. */
struct served *operation_kernel(struct server *s, struct exchange *x);
