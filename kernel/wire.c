/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/wire.h"

#include <errno.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "wall/frame.h"

#define DIGEST_MAX EVP_MAX_MD_SIZE
#define BLOCK_MAX 128 /* bytes: the block of sha384 and sha512 */

/* Signatures seen: a ring of digests for their order, and a hash table over it. */
struct replays {
    uint8_t (*ring)[16];
    uint32_t *bucket; /* index + 1 of the newest digest with this hash; 0: none */
    uint32_t *chain;  /* for each digest the next older one with this hash */
    uint32_t next;
};

struct wire {
    EVP_MD_CTX *inner, *outer; /* states after the key's two blocks (RFC 2104) */
    EVP_MD_CTX *work;
    const EVP_MD *md;
    size_t digest; /* bytes; 0 without a key */
    struct sender sender;
    struct replays replays;
};

/*** The key ***/

/* RFC 2104 with the two key blocks hashed once: each message then costs its own length and two
 * blocks. libcrypto because it uses the SHA instructions of the machine. */
static int
set_key(struct wire *w, const EVP_MD *md, const uint8_t *key, size_t len, struct err *err)
{
    size_t block = (size_t)EVP_MD_block_size(md);
    uint8_t pad[2][BLOCK_MAX] = {{0}};
    unsigned int hashed = 0;
    int ok = 1;

    if (len > block)
        ok = EVP_Digest(key, len, pad[0], &hashed, md, NULL);
    else
        memcpy(pad[0], key, len);
    memcpy(pad[1], pad[0], block);
    for (size_t i = 0; i < block; i++) {
        pad[0][i] ^= 0x36;
        pad[1][i] ^= 0x5c;
    }
    w->inner = EVP_MD_CTX_new();
    w->outer = EVP_MD_CTX_new();
    w->work = EVP_MD_CTX_new();
    ok = ok && w->inner && w->outer && w->work && EVP_DigestInit_ex(w->inner, md, NULL) &&
         EVP_DigestUpdate(w->inner, pad[0], block) && EVP_DigestInit_ex(w->outer, md, NULL) &&
         EVP_DigestUpdate(w->outer, pad[1], block);
    sodium_memzero(pad, sizeof pad);
    w->md = md;
    w->digest = (size_t)EVP_MD_size(md);
    return ok ? 0 : err_set(err, ENOTSUP, "libcrypto refuses digest '%s'", EVP_MD_name(md));
}

static void
release_key(struct wire *w)
{
    EVP_MD_CTX_free(w->inner); /* wipes its state */
    EVP_MD_CTX_free(w->outer);
    EVP_MD_CTX_free(w->work);
}

static void
digest(struct wire *w, const struct bytes part[static WIRE_PARTS], uint8_t into[static DIGEST_MAX])
{
    unsigned int len;

    EVP_MD_CTX_copy_ex(w->work, w->inner);
    for (int i = 0; i < WIRE_PARTS; i++)
        EVP_DigestUpdate(w->work, part[i].data, part[i].len);
    EVP_DigestFinal_ex(w->work, into, &len);
    EVP_MD_CTX_copy_ex(w->work, w->outer);
    EVP_DigestUpdate(w->work, into, len);
    EVP_DigestFinal_ex(w->work, into, &len);
}

static const EVP_MD *
find_digest(const char *scheme)
{
    static const char *const known[] = {"md5", "sha1", "sha224", "sha256", "sha384", "sha512"};

    if (strncmp(scheme, "hmac-", 5) != 0)
        return NULL;
    for (size_t i = 0; i < countof(known); i++)
        if (strcmp(scheme + 5, known[i]) == 0)
            return EVP_get_digestbyname(known[i]);
    return NULL;
}

struct wire *
wire_new(const char *scheme, const void *key, size_t len, struct err *err)
{
    const EVP_MD *md = find_digest(scheme);
    struct wire *w;

    if (!md) {
        err_set(err, ENOTSUP,
                "signature scheme '%s' is not one of hmac-md5, -sha1, -sha224, -sha256, -sha384, "
                "-sha512", scheme);
        return NULL;
    }
    w = calloc(1, sizeof *w);
    if (!w || !(w->replays.ring = calloc(WIRE_REPLAYS, sizeof *w->replays.ring)) ||
        !(w->replays.bucket = calloc(WIRE_REPLAYS, sizeof *w->replays.bucket)) ||
        !(w->replays.chain = calloc(WIRE_REPLAYS, sizeof *w->replays.chain))) {
        err_errno(err, "make room for signatures");
        wire_free(w);
        return NULL;
    }
    if (len && set_key(w, md, key, len, err) < 0) {
        wire_free(w);
        return NULL;
    }
    sender_init(&w->sender);
    return w;
}

void
wire_free(struct wire *w)
{
    if (!w)
        return;
    release_key(w);
    free(w->replays.ring);
    free(w->replays.bucket);
    free(w->replays.chain);
    free(w);
}

const char *
wire_session(const struct wire *w)
{
    return w->sender.session;
}

/*** Verifying ***/

static uint32_t
bucket_of(const uint8_t *seen)
{
    return (get16(seen)) % WIRE_REPLAYS;
}

static int
was_seen(const struct replays *r, const uint8_t *seen)
{
    for (uint32_t i = r->bucket[bucket_of(seen)]; i; i = r->chain[i - 1])
        if (memcmp(r->ring[i - 1], seen, sizeof r->ring[0]) == 0)
            return 1;
    return 0;
}

static void
remember(struct replays *r, const uint8_t *seen)
{
    uint32_t at = r->next++ % WIRE_REPLAYS, *link;

    /* The digest that stood here is the oldest of all, so it is the last of its chain. */
    for (link = &r->bucket[bucket_of(r->ring[at])]; *link; link = &r->chain[*link - 1])
        if (*link == at + 1) {
            *link = 0;
            break;
        }
    memcpy(r->ring[at], seen, sizeof r->ring[0]);
    r->chain[at] = r->bucket[bucket_of(seen)];
    r->bucket[bucket_of(seen)] = at + 1;
}

static int
verify(struct wire *w, struct bytes sig, const struct bytes part[static WIRE_PARTS],
       struct err *err)
{
    uint8_t right[DIGEST_MAX];
    char hex[WIRE_SIGNATURE];

    if (!w->digest)
        return 0;
    if (sig.len != 2 * w->digest)
        return err_set(err, EBADMSG, "a signature of %zu bytes, not %zu", sig.len, 2 * w->digest);
    digest(w, part, right);
    sodium_bin2hex(hex, sizeof hex, right, w->digest);
    if (sodium_memcmp(hex, sig.data, sig.len) != 0)
        return err_set(err, EBADMSG, "a wrong signature");
    if (was_seen(&w->replays, right))
        return err_set(err, EBADMSG, "a signature that was used before");
    remember(&w->replays, right);
    return 0;
}

int
wire_is_key(struct wire *w, struct bytes key)
{
    struct wire other = {0};
    const struct bytes nothing[WIRE_PARTS] = {{0}};
    uint8_t right[DIGEST_MAX], shown[DIGEST_MAX];
    struct err unused;
    int same = 0;

    if (!w->digest)
        return 1;
    if (set_key(&other, w->md, key.data, key.len, &unused) == 0) {
        digest(w, nothing, right);
        digest(&other, nothing, shown);
        same = sodium_memcmp(right, shown, w->digest) == 0;
    }
    release_key(&other);
    return same;
}

int
wire_check(struct wire *w, struct bytes signature, struct bytes part, struct err *err)
{
    const struct bytes alone[WIRE_PARTS] = {part};

    return verify(w, signature, alone, err);
}

int
wire_open(struct wire *w, const struct bytes *frames, size_t n, struct wire_msg *ret,
          struct err *err)
{
    struct wire_msg m = {0};
    size_t delimiter;

    if (wire_delimiter(frames, n, &delimiter, err) < 0 ||
        verify(w, frames[delimiter + 1], frames + delimiter + 2, err) < 0 ||
        wire_parse(frames, delimiter, n, &m, err) < 0)
        return -1;
    *ret = m;
    return 0;
}

/*** Making ***/

int
wire_header(struct wire *w, const char *type, struct buf *ret)
{
    return sender_header(&w->sender, type, ret);
}

const char *
wire_last_id(const struct wire *w)
{
    return w->sender.last_id;
}

size_t
wire_sign(struct wire *w, const struct bytes part[static WIRE_PARTS],
          char into[static WIRE_SIGNATURE])
{
    uint8_t sum[DIGEST_MAX];

    *into = 0;
    if (!w->digest)
        return 0;
    digest(w, part, sum);
    sodium_bin2hex(into, WIRE_SIGNATURE, sum, w->digest);
    return 2 * w->digest;
}
