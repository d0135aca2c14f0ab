/* SPDX-License-Identifier: BSD-3-Clause
 *
 * hello.h: whom does a TLS client want to talk to: the server name of its ClientHello (RFC 8446
 * section 4.1.2, RFC 6066 section 3). Pure. The bytes come from inside.
 *
 * A front that serves many names decides by this name, not by the address that it was reached
 * at; so a connection that was allowed for one name must not ask for another.
 */
#pragma once

#include "base/base.h"
#include "base/names.h"

#define HELLO_MAX 16384 /* bytes: no ClientHello of a real client is near this */

enum hello {
    HELLO_MORE,    /* cannot be said yet */
    HELLO_OTHER,   /* this is not TLS */
    HELLO_NAMED,   /* *name is the server name, normalised */
    HELLO_UNNAMED, /* a ClientHello without a server name */
    HELLO_BROKEN,  /* begins like TLS, and breaks its rules, or does not end in HELLO_MAX */
};

/* Looks at the first bytes that a client sent. */
enum hello hello_read(const uint8_t *data, size_t len, char name[static NAME_SIZE]);
