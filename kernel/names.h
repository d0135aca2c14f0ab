/* SPDX-License-Identifier: BSD-3-Clause
 *
 * names.h: what the supervisor can say about names when the interpreter cannot be asked: from the
 * last account of them, a JSON object that the interpreter sent while it had nothing to do:
 *
 *     {"names":   {"os": ["module", "1", "module"], "x": ["instance", "2", "int"], ...},
 *      "members": {"1": {"path": "module", ...}, "2": {"bit_length": "function", ...}, ...},
 *      "docs":    {"1": "OS routines ...", ...}}
 *
 * A name has its kind, as completions have it, the key of its members and its docstring, and its type. Only
 * NAME and NAME.MEMBER are known. The account is of hostile origin: anything that is not of this form
 * is passed over. `names` and `content` are objects that json_check_object() accepted, or empty;
 * `about` is a JSON object that becomes metadata.husk. Each appends the content of a reply whose
 * request was accepted; -1 and errno ENOMEM. Pure functions.
 */
#pragma once

#include "base/base.h"

int names_complete(struct bytes names, struct bytes content, const char *about, struct buf *ret);
int names_inspect(struct bytes names, struct bytes content, const char *about, struct buf *ret);
/* Nothing is known: {"status": "unknown"}. */
int names_is_complete(struct bytes names, struct bytes content, const char *about, struct buf *ret);
