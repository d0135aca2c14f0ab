/* SPDX-License-Identifier: BSD-3-Clause
 *
 * crypto.h: the calls of libcrypto that signatures are made with, loaded when the first one is: 1.8 ms and 0.4 MB that a
 * kernel without ZeroMQ does without (library.h). Source: EVP_DigestInit(3).
 */
#pragma once

#include <openssl/evp.h>

#include "base/err.h"

#define CRYPTO_CALLS(X)                                                                                      \
    X(Digest) X(DigestFinal_ex) X(DigestInit_ex) X(DigestUpdate) X(MD_CTX_copy_ex) X(MD_CTX_free) X(MD_CTX_new) \
    X(get_digestbyname)

struct crypto {
#define X(name) __typeof__(EVP_##name) *name;
    CRYPTO_CALLS(X)
#undef X
};

/* As crypto.DigestUpdate(...) for EVP_DigestUpdate(3). All are NULL before crypto_load(). */
extern struct crypto crypto;

/* Does nothing the second time. */
int crypto_load(struct err *err);
