/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "kernel/wire.h"

#define HEADER "{\"msg_id\":\"1\",\"msg_type\":\"kernel_info_request\",\"x\":[1]}"

/* The signature by another implementation of RFC 2104 than the one under test. */
static void
sign(const char *digest, const char *key, const struct bytes *frames, char *hex)
{
    uint8_t sum[EVP_MAX_MD_SIZE], all[4096];
    unsigned int len;
    size_t n = 0;

    for (int i = 0; i < 4; i++) {
        memcpy(all + n, frames[i].data, frames[i].len);
        n += frames[i].len;
    }
    HMAC(EVP_get_digestbyname(digest), key, (int)strlen(key), all, n, sum, &len);
    sodium_bin2hex(hex, 2 * len + 1, sum, len);
}

static struct wire *
new_wire(const char *scheme, const char *key)
{
    struct err err;
    struct wire *w = wire_new(scheme, key, strlen(key), &err);

    assert_non_null(w);
    return w;
}

static size_t
make(struct bytes f[static 8], const char *header, const char *content, char *hex)
{
    f[0] = BYTES("client");
    f[1] = BYTES(WIRE_DELIMITER);
    f[3] = bytes_of(header);
    f[4] = BYTES("{}");
    f[5] = BYTES("{}");
    f[6] = bytes_of(content);
    sign("sha256", "key", f + 3, hex);
    f[2] = bytes_of(hex);
    return 7;
}

static void
every_scheme_agrees_with_libcrypto(void **state)
{
    static const char *const names[] = {"md5", "sha1", "sha224", "sha256", "sha384", "sha512"};
    /* longer than any block, so that the key is hashed first */
    static const char *const keys[] = {"k", "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"};

    for (size_t i = 0; i < countof(names); i++)
        for (size_t k = 0; k < countof(keys); k++) {
            char scheme[32], mine[WIRE_SIGNATURE], theirs[WIRE_SIGNATURE];
            struct bytes part[] = {BYTES("{\"a\":1}"), BYTES("{}"), BYTES("{}"), BYTES("{\"b\":2}")};
            struct wire *w;
            snprintf(scheme, sizeof scheme, "hmac-%s", names[i]);
            w = new_wire(scheme, keys[k]);
            sign(names[i], keys[k], part, theirs);
            assert_int_equal(wire_sign(w, part, mine), strlen(theirs));
            assert_string_equal(mine, theirs);
            wire_free(w);
        }
}

static void
unknown_schemes_are_refused(void **state)
{
    static const char *const schemes[] = {"", "hmac", "hmac-", "hmac-crc32", "sha256", "HMAC-SHA256"};
    struct err err;

    for (size_t i = 0; i < countof(schemes); i++) {
        assert_null(wire_new(schemes[i], "k", 1, &err));
        assert_non_null(strstr(err.text, "is not one of"));
    }
}

static void
a_good_message_is_opened(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "key");
    struct wire_msg m;
    struct bytes f[9];
    struct err err;
    char hex[WIRE_SIGNATURE];
    size_t n = make(f, HEADER, "{}", hex);

    f[n++] = BYTES("a buffer");
    assert_int_equal(wire_open(w, f, n, &m, &err), 0);
    assert_int_equal(m.identities, 1);
    assert_int_equal(m.buffers, 1);
    assert_int_equal(m.first_buffer, 7);
    assert_memory_equal(m.msg_type.data, "\"kernel_info_request\"", m.msg_type.len);
    wire_free(w);
}

static void
broken_messages_are_refused_with_the_reason(void **state)
{
    static const struct {
        const char *claim, *header, *content, *signature, *reason;
        size_t frames;
    } cases[] = {
        {"no delimiter", HEADER, "{}", NULL, "without a delimiter", 1},
        {"cut after the signature", HEADER, "{}", NULL, "frames after the delimiter", 3},
        {"cut before the content", HEADER, "{}", NULL, "frames after the delimiter", 6},
        {"an empty signature", HEADER, "{}", "", "a signature of 0 bytes", 7},
        {"a signature of one byte", HEADER, "{}", "a", "a signature of 1 bytes", 7},
        {"63 bytes", HEADER, "{}",
         "000000000000000000000000000000000000000000000000000000000000000", "a signature of 63 bytes", 7},
        {"65 bytes", HEADER, "{}",
         "00000000000000000000000000000000000000000000000000000000000000000", "a signature of 65 bytes", 7},
        {"a wrong one", HEADER, "{}",
         "0000000000000000000000000000000000000000000000000000000000000000", "a wrong signature", 7},
        {"header is no JSON", "{", "{}", NULL, "header: ", 7},
        {"header is no object", "[]", "{}", NULL, "header: ", 7},
        {"no msg_id", "{\"msg_type\":\"x\"}", "{}", NULL, "without msg_id", 7},
        {"msg_type is a number", "{\"msg_id\":\"1\",\"msg_type\":1}", "{}", NULL, "without msg_id", 7},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        struct wire *w = new_wire("hmac-sha256", "key");
        struct wire_msg m;
        struct bytes f[8];
        struct err err = {0};
        char hex[WIRE_SIGNATURE];

        make(f, cases[i].header, cases[i].content, hex);
        if (cases[i].signature)
            f[2] = bytes_of(cases[i].signature);
        if (wire_open(w, f, cases[i].frames, &m, &err) != -1 || !strstr(err.text, cases[i].reason))
            fail_msg("%s: '%s' does not say '%s'", cases[i].claim, err.text, cases[i].reason);
        wire_free(w);
    }
}

static void
an_upper_case_signature_is_wrong(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "key");
    struct wire_msg m;
    struct bytes f[8];
    struct err err;
    char hex[WIRE_SIGNATURE];

    make(f, HEADER, "{}", hex);
    for (char *c = hex; *c; c++)
        if (*c >= 'a')
            *c -= 32;
    assert_int_equal(wire_open(w, f, 7, &m, &err), -1);
    assert_string_equal(err.text, "a wrong signature");
    wire_free(w);
}

static void
a_replay_is_refused_and_a_forgery_blocks_nothing(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "key");
    struct wire_msg m;
    struct bytes f[8], forged[8];
    struct err err;
    char hex[WIRE_SIGNATURE], other[WIRE_SIGNATURE];

    make(f, HEADER, "{}", hex);
    make(forged, HEADER, "{\"code\":\"evil\"}", other);
    forged[2] = f[2]; /* the signature of the genuine one, sent first */
    assert_int_equal(wire_open(w, forged, 7, &m, &err), -1);
    assert_string_equal(err.text, "a wrong signature");
    assert_int_equal(wire_open(w, f, 7, &m, &err), 0);
    assert_int_equal(wire_open(w, f, 7, &m, &err), -1);
    assert_string_equal(err.text, "a signature that was used before");
    wire_free(w);
}

static void
the_ring_of_signatures_is_bounded_and_exact(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "key");
    struct wire_msg m;
    struct bytes f[8];
    struct err err;
    char hex[WIRE_SIGNATURE], header[96];

    /* one more than fit: the first is forgotten, the second is not */
    for (int i = 0; i <= WIRE_REPLAYS; i++) {
        snprintf(header, sizeof header, "{\"msg_id\":\"%d\",\"msg_type\":\"x\"}", i);
        make(f, header, "{}", hex);
        assert_int_equal(wire_open(w, f, 7, &m, &err), 0);
    }
    for (int i = 1; i <= WIRE_REPLAYS; i += 997) {
        snprintf(header, sizeof header, "{\"msg_id\":\"%d\",\"msg_type\":\"x\"}", i);
        make(f, header, "{}", hex);
        assert_int_equal(wire_open(w, f, 7, &m, &err), -1);
    }
    make(f, "{\"msg_id\":\"0\",\"msg_type\":\"x\"}", "{}", hex);
    assert_int_equal(wire_open(w, f, 7, &m, &err), 0);
    wire_free(w);
}

static void
without_a_key_nothing_is_signed_or_checked(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "");
    struct wire_msg m;
    struct bytes f[8];
    struct err err;
    char hex[WIRE_SIGNATURE];

    make(f, HEADER, "{}", hex);
    f[2] = BYTES("");
    assert_int_equal(wire_open(w, f, 7, &m, &err), 0);
    assert_int_equal(wire_open(w, f, 7, &m, &err), 0); /* no signature: no replay either */
    assert_int_equal(wire_sign(w, m.part, hex), 0);
    assert_string_equal(hex, "");
    wire_free(w);
}

/* The key itself is forgotten when signatures can be made. */
static void
the_key_is_known_again_before_and_after_it_is_in_use(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "key");
    struct err err;

    for (int i = 0; i < 2; i++) {
        assert_true(wire_is_key(w, BYTES("key")));
        assert_false(wire_is_key(w, BYTES("kez")));
        assert_false(wire_is_key(w, BYTES("key ")));
        assert_false(wire_is_key(w, BYTES("")));
        assert_int_equal(wire_prepare(w, &err), 0);
    }
    wire_free(w);
}

static void
headers_are_unique_and_dated(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "key");
    scoped(buf_release) struct buf a = {0}, b = {0};
    char date[32];
    int y, mo, d, h, mi, s, us;

    assert_int_equal(wire_header(w, "status", &a), 0);
    assert_int_equal(wire_header(w, "status", &b), 0);
    assert_string_not_equal(buf_string(&a), buf_string(&b));
    assert_int_equal(sscanf(clock_text(clock_us(), date), "%4d-%2d-%2dT%2d:%2d:%2d.%6dZ", &y, &mo, &d, &h, &mi, &s, &us), 7);
    assert_int_equal(strlen(date), 27);
    wire_free(w);
}

/* Against the C library, over a change of the second and of the number of digits. */
static void
headers_say_what_they_should(void **state)
{
    struct wire *w = new_wire("hmac-sha256", "key");

    for (int i = 0; i < 1200; i++) {
        scoped(buf_release) struct buf header = {0};
        struct timespec before, after; /* time(2) lags behind */
        char expected[2][64], id[80];
        struct bytes value;
        struct err err;

        clock_gettime(CLOCK_REALTIME, &before);
        assert_int_equal(wire_header(w, "status", &header), 0);
        clock_gettime(CLOCK_REALTIME, &after);
        assert_int_equal(json_check((struct bytes){header.data, header.len}, &err), J_OBJECT);
        assert_int_equal(json_get((struct bytes){header.data, header.len}, "msg_id", &value), J_STRING);
        snprintf(id, sizeof id, "%s_%d", wire_session(w), i);
        assert_true(json_string_is(value, id));
        assert_string_equal(wire_last_id(w), id);
        assert_int_equal(json_get((struct bytes){header.data, header.len}, "date", &value), J_STRING);
        strftime(expected[0], sizeof expected[0], "\"%Y-%m-%dT%H:%M:%S.", gmtime(&before.tv_sec));
        strftime(expected[1], sizeof expected[1], "\"%Y-%m-%dT%H:%M:%S.", gmtime(&after.tv_sec));
        assert_true(memcmp(value.data, expected[0], 21) == 0 || memcmp(value.data, expected[1], 21) == 0);
        assert_int_equal(strspn((const char *)value.data + 21, "0123456789"), 6);
        usleep(1000);
    }
    wire_free(w);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scheme_agrees_with_libcrypto),
        cmocka_unit_test(unknown_schemes_are_refused),
        cmocka_unit_test(a_good_message_is_opened),
        cmocka_unit_test(broken_messages_are_refused_with_the_reason),
        cmocka_unit_test(an_upper_case_signature_is_wrong),
        cmocka_unit_test(a_replay_is_refused_and_a_forgery_blocks_nothing),
        cmocka_unit_test(the_ring_of_signatures_is_bounded_and_exact),
        cmocka_unit_test(without_a_key_nothing_is_signed_or_checked),
        cmocka_unit_test(the_key_is_known_again_before_and_after_it_is_in_use),
        cmocka_unit_test(headers_are_unique_and_dated),
        cmocka_unit_test(headers_say_what_they_should),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
