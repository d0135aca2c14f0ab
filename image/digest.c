/* SPDX-License-Identifier: BSD-3-Clause */
#include "image/digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"

static int
hash(int fd, EVP_MD_CTX *context, unsigned char sum[static EVP_MAX_MD_SIZE], struct err *err)
{
    static unsigned char block[1 << 18];
    off_t at = 0;
    ssize_t n;

    if (!EVP_DigestInit_ex(context, EVP_sha256(), NULL))
        return err_set(err, EIO, "libcrypto has no SHA-256");
    while ((n = pread(fd, block, sizeof block, at)) > 0) {
        at += n;
        if (!EVP_DigestUpdate(context, block, (size_t)n))
            return err_set(err, EIO, "compute a digest");
    }
    if (n < 0)
        return err_errno(err, "read the image");
    return EVP_DigestFinal_ex(context, sum, NULL) ? 0 : err_set(err, EIO, "compute a digest");
}

int
digest_of(int fd, char ret[static DIGEST_HEX], struct err *err)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int r = context ? hash(fd, context, sum, err) : err_errno(err, "compute a digest");

    EVP_MD_CTX_free(context);
    for (int i = 0; r == 0 && i < 32; i++)
        snprintf(ret + 2 * i, 3, "%02x", sum[i]);
    return r;
}
