/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/wire.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernel/crypto.h"
#include "wall/frame.h"

#define DIGEST_MAX EVP_MAX_MD_SIZE
#define BLOCK_MAX 128 /* bytes: the block of sha384 and sha512 */
#define KEY_HASH crypto_generichash_BYTES

/* Signatures seen: a ring of digests for their order, and a hash table over it. */
struct replays {
    uint8_t (*ring)[16];
    uint32_t *bucket; /* index + 1 of the newest digest with this hash; 0: none */
    uint32_t *chain;  /* for each digest the next older one with this hash */
    uint32_t next;
};

/* What a scheme signs with. */
struct scheme {
    const char *name;
    size_t digest, block; /* bytes */
};
static const struct scheme schemes[] = {{"hmac-md5", 16, 64},    {"hmac-sha1", 20, 64},    {"hmac-sha224", 28, 64},
                                        {"hmac-sha256", 32, 64}, {"hmac-sha384", 48, 128}, {"hmac-sha512", 64, 128}};

struct wire {
    const struct scheme *scheme;
    uint8_t *key; /* until it is in the states */
    size_t key_len;
    uint8_t shown[KEY_HASH];   /* by which the key is known again */
    EVP_MD_CTX *inner, *outer; /* states after the key's two blocks (RFC 2104); NULL: not needed yet */
    EVP_MD_CTX *work;
    size_t digest; /* bytes; 0 without a key */
    struct sender sender;
    struct replays replays;
};

/*** The key ***/

static void
forget_key(struct wire *w)
{
    if (w->key)
        sodium_memzero(w->key, w->key_len);
    free(w->key);
    w->key = NULL;
}

static void
hash_key(struct bytes key, uint8_t ret[static KEY_HASH])
{
    (void)crypto_generichash(ret, KEY_HASH, key.data, key.len, NULL, 0); /* which cannot fail with these sizes */
}

/* RFC 2104 with the two key blocks hashed once: each message then costs its own length and two
 * blocks. libcrypto because it uses the SHA instructions of the machine. */
int
wire_prepare(struct wire *w, struct err *err)
{
    size_t block = w->scheme->block;
    uint8_t pad[2][BLOCK_MAX] = {{0}};
    const EVP_MD *md;
    int ok = 1;

    if (!w->digest || w->work)
        return 0;
    if (crypto_load(err) < 0)
        return -1;
    md = crypto.get_digestbyname(w->scheme->name + strlen("hmac-"));
    if (!md)
        return err_set(err, ENOTSUP, "libcrypto has no %s", w->scheme->name);
    if (w->key_len > block)
        ok = crypto.Digest(w->key, w->key_len, pad[0], NULL, md, NULL);
    else
        memcpy(pad[0], w->key, w->key_len);
    memcpy(pad[1], pad[0], block);
    for (size_t i = 0; i < block; i++) {
        pad[0][i] ^= 0x36;
        pad[1][i] ^= 0x5c;
    }
    w->inner = crypto.MD_CTX_new();
    w->outer = crypto.MD_CTX_new();
    w->work = crypto.MD_CTX_new();
    ok = ok && w->inner && w->outer && w->work && crypto.DigestInit_ex(w->inner, md, NULL) &&
         crypto.DigestUpdate(w->inner, pad[0], block) && crypto.DigestInit_ex(w->outer, md, NULL) &&
         crypto.DigestUpdate(w->outer, pad[1], block);
    sodium_memzero(pad, sizeof pad);
    if (!ok)
        return err_set(err, ENOTSUP, "libcrypto refuses %s", w->scheme->name);
    forget_key(w);
    return 0;
}

static void
release_key(struct wire *w)
{
    forget_key(w);
    if (!crypto.MD_CTX_free)
        return;
    crypto.MD_CTX_free(w->inner); /* wipes its state */
    crypto.MD_CTX_free(w->outer);
    crypto.MD_CTX_free(w->work);
}

static void
digest(struct wire *w, const struct bytes part[static WIRE_PARTS], uint8_t into[static DIGEST_MAX])
{
    struct err unused;
    unsigned int len;

    if (wire_prepare(w, &unused) < 0)
        abort(); /* whoever has sockets has prepared it */
    crypto.MD_CTX_copy_ex(w->work, w->inner);
    for (int i = 0; i < WIRE_PARTS; i++)
        crypto.DigestUpdate(w->work, part[i].data, part[i].len);
    crypto.DigestFinal_ex(w->work, into, &len);
    crypto.MD_CTX_copy_ex(w->work, w->outer);
    crypto.DigestUpdate(w->work, into, len);
    crypto.DigestFinal_ex(w->work, into, &len);
}

static const struct scheme *
find_scheme(const char *name)
{
    for (size_t i = 0; i < countof(schemes); i++)
        if (strcmp(name, schemes[i].name) == 0)
            return &schemes[i];
    return NULL;
}

static int
take_key(struct wire *w, const struct scheme *scheme, struct bytes key)
{
    w->scheme = scheme;
    w->digest = key.len ? scheme->digest : 0;
    if (!key.len)
        return 0;
    if (!(w->key = malloc(key.len)))
        return -1;
    memcpy(w->key, key.data, key.len);
    w->key_len = key.len;
    hash_key(key, w->shown);
    return 0;
}

struct wire *
wire_new(const char *scheme, const void *key, size_t len, struct err *err)
{
    const struct scheme *found = find_scheme(scheme);
    struct wire *w;

    if (!found) {
        err_set(err, ENOTSUP,
                "signature scheme '%s' is not one of hmac-md5, -sha1, -sha224, -sha256, -sha384, "
                "-sha512", scheme);
        return NULL;
    }
    w = calloc(1, sizeof *w);
    if (!w || !(w->replays.ring = calloc(WIRE_REPLAYS, sizeof *w->replays.ring)) ||
        !(w->replays.bucket = calloc(WIRE_REPLAYS, sizeof *w->replays.bucket)) ||
        !(w->replays.chain = calloc(WIRE_REPLAYS, sizeof *w->replays.chain)) ||
        take_key(w, found, (struct bytes){key, len}) < 0) {
        err_errno(err, "make room for signatures");
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
wire_is_key(const struct wire *w, struct bytes key)
{
    uint8_t shown[KEY_HASH];

    if (!w->digest)
        return 1;
    hash_key(key, shown);
    return sodium_memcmp(w->shown, shown, sizeof shown) == 0;
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
