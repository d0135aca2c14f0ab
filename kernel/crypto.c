/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/crypto.h"

#include "base/base.h"
#include "kernel/library.h"

#if OPENSSL_VERSION_MAJOR >= 3 /* the interface that we were compiled for */
#define LIBRARY "libcrypto.so.3"
#else
#define LIBRARY "libcrypto.so.1.1"
#endif

struct crypto crypto;

int
crypto_load(struct err *err)
{
    static struct crypto found;
    static const struct library_call calls[] = {
#define X(name) {"EVP_" #name, (void **)&found.name},
        CRYPTO_CALLS(X)
#undef X
    };

    if (crypto.Digest)
        return 0;
    if (library_load(LIBRARY, calls, countof(calls), err) < 0)
        return -1;
    crypto = found;
    return 0;
}
