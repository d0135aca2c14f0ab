/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Both forms of a message in a WebSocket, byte by byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "serve/framing.h"

static struct bytes buffers[FRAMING_BUFFERS];

static const struct framing plain = {
    .channel = {(const uint8_t *)"iopub", 5},
    .part = {{(const uint8_t *)"{\"msg_id\":\"a\",\"msg_type\":\"b\"}", 29}, {(const uint8_t *)"{}", 2},
             {(const uint8_t *)"{\"m\":1}", 7}, {(const uint8_t *)"{\"c\":2}", 7}},
};

static void
legacy_is_one_object(void **state)
{
    scoped(buf_release) struct buf b = {0};
    int binary;

    assert_int_equal(framing_write(&plain, 0, &b, &binary), 0);
    assert_int_equal(binary, 0);
    assert_string_equal(buf_string(&b), "{\"channel\":\"iopub\",\"msg_id\":\"a\",\"msg_type\":\"b\",\"header\":{\"msg_id\":\"a\","
                                        "\"msg_type\":\"b\"},\"parent_header\":{},\"metadata\":{\"m\":1},\"content\":{\"c\":2},\"buffers\":[]}");
}

static void
v1_is_offsets_and_pieces(void **state)
{
    scoped(buf_release) struct buf b = {0};
    struct bytes one = BYTES("xyz");
    struct framing m = plain;
    int binary;
    static const uint64_t offsets[] = {7, 64, 69, 98, 100, 107, 114, 117};

    m.buffer = &one;
    m.buffers = 1;
    assert_int_equal(framing_write(&m, 1, &b, &binary), 0);
    assert_int_equal(binary, 1);
    assert_int_equal(b.len, 117);
    for (size_t i = 0; i < countof(offsets); i++) {
        uint64_t got;
        memcpy(&got, b.data + 8 * i, 8); /* this machine is little-endian, as all that husk runs on */
        assert_int_equal(got, offsets[i]);
    }
    assert_memory_equal(b.data + 64, "iopub{\"msg_id\":\"a\",\"msg_type\":\"b\"}{}{\"m\":1}{\"c\":2}xyz", 53);
}

static void
what_is_left_out_stands_for_nothing(void **state)
{
    struct framing m;
    struct err err;

    assert_int_equal(framing_read(BYTES("{\"header\":{\"msg_id\":\"a\"},\"metadata\":null}"), 0, 0, buffers, &m, &err), 0);
    assert_int_equal(m.channel.len, 0);
    assert_int_equal(m.buffers, 0);
    for (int i = 1; i < FRAMING_PARTS; i++)
        assert_true(bytes_equal(m.part[i], "{}"));
}

static void
what_is_wrong_is_said(void **state)
{
    static const struct {
        const char *text, *reason;
    } rows[] = {{"", "byte 0"}, {"[]", "object"}, {"{\"header\":1}", "'header' is no object"},
                {"{\"content\":[]}", "'content' is no object"}, {"{\"channel\":{}}", "'channel' is no string"}};
    struct framing m;
    struct err err;

    for (size_t i = 0; i < countof(rows); i++) {
        assert_int_equal(framing_read(bytes_of(rows[i].text), 0, 0, buffers, &m, &err), -1);
        assert_non_null(strstr(err.text, rows[i].reason));
    }
    assert_int_equal(framing_read(BYTES("{}"), 1, 0, buffers, &m, &err), -1);
    assert_non_null(strstr(err.text, "a text frame"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(legacy_is_one_object),
        cmocka_unit_test(v1_is_offsets_and_pieces),
        cmocka_unit_test(what_is_left_out_stands_for_nothing),
        cmocka_unit_test(what_is_wrong_is_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
