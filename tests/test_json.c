/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_json.c: what kernel/json.h says, one claim a line. Refusals are compared with their
 * reason: a text can be refused for another fault than the one that is meant.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/json.h"

#define B(literal) {(const uint8_t *)(literal), sizeof(literal) - 1}
#define EDGE_ROOM (1u << 20) /* bytes: a multiple of the page size */

/*** tools ***/

/* The same bytes where the next one does not exist: a look beyond the end is a crash, with
 * sanitizers and without. Borrowed until the next call. */
static struct bytes
at_edge(struct bytes text)
{
    static uint8_t *room;
    uint8_t *at;

    if (!room) {
        room = mmap(NULL, 2 * EDGE_ROOM, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(room != MAP_FAILED);
        assert_int_equal(mprotect(room + EDGE_ROOM, EDGE_ROOM, PROT_NONE), 0);
    }
    assert_true(text.len <= EDGE_ROOM);
    at = room + EDGE_ROOM - text.len;
    if (text.len)
        memcpy(at, text.data, text.len);
    return (struct bytes){at, text.len};
}

static struct bytes
bytes_in(const struct buf *buf)
{
    return (struct bytes){buf->data, buf->len};
}

static int
same(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static void
add(struct buf *buf, const char *text, size_t times)
{
    for (size_t i = 0; i < times; i++)
        assert_int_equal(buf_text(buf, text), 0);
}

/* `type` is -1 where `reason` says why not. */
static void
expect_verdict(const char *claim, struct bytes text, int type, const char *reason)
{
    struct err err = {0};
    int r = json_check(at_edge(text), &err);

    if (r != type)
        fail_msg("%s: %d instead of %d (%s)", claim, r, type, err.text);
    if (type < 0 && strcmp(err.text, reason) != 0)
        fail_msg("%s: refused with '%s' instead of '%s'", claim, err.text, reason);
    if (type < 0 && err.code != EBADMSG)
        fail_msg("%s: refused with the code %d", claim, err.code);
    if (type >= 0 && err.code)
        fail_msg("%s: accepted with an error", claim);
}

/*** json_check ***/

static const struct {
    const char *claim;
    struct bytes text;
    int type;
    const char *reason;
} checks[] = {
    /* values */
    {"an object", B("{}"), J_OBJECT, NULL},
    {"an array", B("[]"), J_ARRAY, NULL},
    {"a string", B("\"\""), J_STRING, NULL},
    {"a number", B("7"), J_NUMBER, NULL},
    {"true", B("true"), J_TRUE, NULL},
    {"false", B("false"), J_FALSE, NULL},
    {"null", B("null"), J_NULL, NULL},
    {"white space of all four kinds", B(" \t\r\n[ \t\r\n] \t\r\n"), J_ARRAY, NULL},
    {"white space around every token", B(" { \"a\" : [ 1 , 2 ] , \"b\" : { } } "), J_OBJECT, NULL},
    {"members of every type", B("{\"a\":1,\"b\":\"\",\"c\":[{}],\"d\":{\"e\":[]},\"f\":null}"), J_OBJECT, NULL},
    {"a name that is empty", B("{\"\":0}"), J_OBJECT, NULL},
    {"a name twice", B("{\"a\":1,\"a\":2}"), J_OBJECT, NULL},
    {"a name with a NUL", B("{\"a\\u0000b\":1}"), J_OBJECT, NULL},
    {"an array that closes an object before", B("[{\"a\":[{\"b\":[]}]},[]]"), J_ARRAY, NULL},
    {"nothing", B(""), -1, "byte 0: no value"},
    {"only white space", B(" \n "), -1, "byte 3: no value"},
    {"a vertical tab", B("\v1"), -1, "byte 0: no value"},
    {"a form feed", B("[\f]"), -1, "byte 1: no value"},
    {"a no-break space", B("[\xc2\xa0]"), -1, "byte 1: no value"},
    {"a NUL in front", B("\0""1"), -1, "byte 0: no value"},
    {"a NUL behind", B("1\0"), -1, "byte 1: something after the value"},
    {"a byte order mark", B("\xef\xbb\xbf{}"), -1, "byte 0: a byte order mark"},
    {"half of a byte order mark", B("\xef\xbb{}"), -1, "byte 0: no value"},
    {"UTF-16", B("{\0}\0"), -1, "byte 1: no name in quotes"},
    {"a comment", B("/**/1"), -1, "byte 0: no value"},
    {"a comment behind", B("1//"), -1, "byte 1: something after the value"},
    {"two values", B("1 2"), -1, "byte 2: something after the value"},
    {"two objects", B("{}{}"), -1, "byte 2: something after the value"},
    {"a comma behind", B("[],"), -1, "byte 2: something after the value"},
    {"a bracket too many", B("[]]"), -1, "byte 2: something after the value"},
    {"a brace too many", B("{}}"), -1, "byte 2: something after the value"},
    {"a name without quotes", B("a"), -1, "byte 0: no value"},
    {"a string in single quotes", B("'a'"), -1, "byte 0: no value"},
    {"text of another alphabet outside of strings", B("[\xc3\xa5]"), -1, "byte 1: no value"},
    /* literals */
    {"true, cut off", B("tru"), -1, "byte 0: no value"},
    {"false, cut off", B("fals"), -1, "byte 0: no value"},
    {"null, cut off", B("[nul"), -1, "byte 1: no value"},
    {"true with a capital", B("True"), -1, "byte 0: no value"},
    {"truer than true", B("truer"), -1, "byte 4: something after the value"},
    {"nulls", B("[nulll]"), -1, "byte 5: no ',' or ']' after an element"},
    {"NaN", B("NaN"), -1, "byte 0: no value"},
    {"nan", B("nan"), -1, "byte 0: no value"},
    {"Infinity", B("[Infinity]"), -1, "byte 1: no value"},
    {"-Infinity", B("-Infinity"), -1, "byte 1: a number without digits"},
    {"undefined", B("undefined"), -1, "byte 0: no value"},
    /* numbers */
    {"zero", B("0"), J_NUMBER, NULL},
    {"minus zero", B("-0"), J_NUMBER, NULL},
    {"minus zero with everything", B("-0.0e-0"), J_NUMBER, NULL},
    {"a fraction", B("3.14159"), J_NUMBER, NULL},
    {"a fraction that begins with zeros", B("0.001"), J_NUMBER, NULL},
    {"an exponent", B("1e5"), J_NUMBER, NULL},
    {"an exponent with a capital and plus", B("1E+5"), J_NUMBER, NULL},
    {"an exponent with leading zeros", B("1e-007"), J_NUMBER, NULL},
    {"an exponent of zero", B("0e0"), J_NUMBER, NULL},
    {"a number that no double holds", B("1e400"), J_NUMBER, NULL},
    {"a number of many digits", B("-123456789012345678901234567890.123456789012345678901234567890"), J_NUMBER, NULL},
    {"a number, then white space", B("12 \n"), J_NUMBER, NULL},
    {"numbers close to commas", B("[-1,0,1.5,2e3,-0]"), J_ARRAY, NULL},
    {"a sign alone", B("-"), -1, "byte 1: a number without digits"},
    {"a sign alone in an array", B("[-]"), -1, "byte 2: a number without digits"},
    {"two signs", B("--1"), -1, "byte 1: a number without digits"},
    {"a sign and white space", B("- 1"), -1, "byte 1: a number without digits"},
    {"plus", B("+1"), -1, "byte 0: no value"},
    {"a leading zero", B("012"), -1, "byte 0: a number with a leading zero"},
    {"a leading zero after a sign", B("[-012]"), -1, "byte 2: a number with a leading zero"},
    {"two zeros", B("00"), -1, "byte 0: a number with a leading zero"},
    {"hexadecimal", B("0x1F"), -1, "byte 1: something after the value"},
    {"a point in front", B(".5"), -1, "byte 0: no value"},
    {"a point behind", B("1."), -1, "byte 2: a fraction without digits"},
    {"a point before the exponent", B("1.e5"), -1, "byte 2: a fraction without digits"},
    {"a sign before a point", B("-.5"), -1, "byte 1: a number without digits"},
    {"two points", B("1.2.3"), -1, "byte 3: something after the value"},
    {"an exponent, cut off", B("1e"), -1, "byte 2: an exponent without digits"},
    {"an exponent with a sign, cut off", B("[1E+]"), -1, "byte 4: an exponent without digits"},
    {"an exponent with two signs", B("1e+-2"), -1, "byte 3: an exponent without digits"},
    {"an exponent with a fraction", B("1e2.5"), -1, "byte 3: something after the value"},
    {"an exponent alone", B("e5"), -1, "byte 0: no value"},
    {"a number with a suffix", B("[1L]"), -1, "byte 2: no ',' or ']' after an element"},
    {"a number with spaces", B("[1 000]"), -1, "byte 3: no ',' or ']' after an element"},
    {"digits of another alphabet", B("\xef\xbc\x91"), -1, "byte 0: no value"},
    /* arrays and objects */
    {"an array that is open", B("["), -1, "byte 1: no value"},
    {"an array that is open after a value", B("[1"), -1, "byte 2: no ',' or ']' after an element"},
    {"an array that is open after a comma", B("[1,"), -1, "byte 3: no value"},
    {"a comma before the end of an array", B("[1,]"), -1, "byte 3: no value"},
    {"a comma alone in an array", B("[,]"), -1, "byte 1: no value"},
    {"two commas in an array", B("[1,,2]"), -1, "byte 3: no value"},
    {"no comma in an array", B("[1 true]"), -1, "byte 3: no ',' or ']' after an element"},
    {"a colon in an array", B("[1:2]"), -1, "byte 2: no ',' or ']' after an element"},
    {"an array closed by a brace", B("[1}"), -1, "byte 2: no ',' or ']' after an element"},
    {"an empty array closed by a brace", B("[}"), -1, "byte 1: no value"},
    {"an end without a beginning", B("]"), -1, "byte 0: no value"},
    {"an object that is open", B("{"), -1, "byte 1: no name in quotes"},
    {"an object that is open after a name", B("{\"a\""), -1, "byte 4: no ':' after a name"},
    {"an object that is open after a colon", B("{\"a\":"), -1, "byte 5: no value"},
    {"an object that is open after a value", B("{\"a\":1"), -1, "byte 6: no ',' or '}' after a member"},
    {"an object that is open after a comma", B("{\"a\":1,"), -1, "byte 7: no name in quotes"},
    {"a comma before the end of an object", B("{\"a\":1,}"), -1, "byte 7: no name in quotes"},
    {"a comma alone in an object", B("{,}"), -1, "byte 1: no name in quotes"},
    {"two commas in an object", B("{\"a\":1,,\"b\":2}"), -1, "byte 7: no name in quotes"},
    {"no colon", B("{\"a\" 1}"), -1, "byte 5: no ':' after a name"},
    {"two colons", B("{\"a\"::1}"), -1, "byte 5: no value"},
    {"a comma for a colon", B("{\"a\",1}"), -1, "byte 4: no ':' after a name"},
    {"a name without a value", B("{\"a\"}"), -1, "byte 4: no ':' after a name"},
    {"a colon without a value", B("{\"a\":}"), -1, "byte 5: no value"},
    {"a value without a name", B("{:1}"), -1, "byte 1: no name in quotes"},
    {"a name that is a number", B("{1:1}"), -1, "byte 1: no name in quotes"},
    {"a name in single quotes", B("{'a':1}"), -1, "byte 1: no name in quotes"},
    {"a name that is null", B("{null:1}"), -1, "byte 1: no name in quotes"},
    {"an object closed by a bracket", B("{\"a\":1]"), -1, "byte 6: no ',' or '}' after a member"},
    {"an empty object closed by a bracket", B("{]"), -1, "byte 1: no name in quotes"},
    {"brackets that cross", B("[{\"a\":[}]]"), -1, "byte 7: no value"},
    {"an outer array after an inner object", B("[{\"a\":1}}"), -1, "byte 8: no ',' or ']' after an element"},
    {"an outer object after an inner array", B("{\"a\":[]]"), -1, "byte 7: no ',' or '}' after a member"},
    /* strings */
    {"every short escape", B("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), J_STRING, NULL},
    {"\\u in both cases", B("\"\\u00e9\\u00E9\\uAbCd\""), J_STRING, NULL},
    {"a NUL, escaped", B("\"\\u0000\""), J_STRING, NULL},
    {"a surrogate pair", B("\"\\ud83d\\ude00\""), J_STRING, NULL},
    {"a lone high surrogate", B("\"\\ud800\""), J_STRING, NULL},
    {"a lone low surrogate", B("\"\\uDFFF\""), J_STRING, NULL},
    {"surrogates the wrong way round", B("\"\\ude00\\ud83d\""), J_STRING, NULL},
    {"a high surrogate before another escape", B("\"\\ud800\\n\""), J_STRING, NULL},
    {"what is not a character, escaped", B("\"\\uffff\""), J_STRING, NULL},
    {"DEL", B("\"\x7f\""), J_STRING, NULL},
    {"a byte order mark in a string", B("\"\xef\xbb\xbf\""), J_STRING, NULL},
    {"U+2028 as it is", B("\"\xe2\x80\xa8\""), J_STRING, NULL},
    {"an escaped quote before the end", B("\"a\\\\\""), J_STRING, NULL},
    {"a quote alone", B("\""), -1, "byte 0: a string is not closed"},
    {"a string that is open", B("[\"abc"), -1, "byte 1: a string is not closed"},
    {"a quote that is escaped", B("\"abc\\\""), -1, "byte 0: a string is not closed"},
    {"a backslash at the end", B("\"abc\\"), -1, "byte 4: an escape that is cut off"},
    {"\\u at the end", B("\"\\u"), -1, "byte 1: \\u without four hexadecimal digits"},
    {"\\u with one digit at the end", B("\"\\u1"), -1, "byte 1: \\u without four hexadecimal digits"},
    {"\\u with three digits at the end", B("\"\\u123"), -1, "byte 1: \\u without four hexadecimal digits"},
    {"\\u with three digits", B("\"\\u123\""), -1, "byte 1: \\u without four hexadecimal digits"},
    {"\\u with four digits at the end", B("\"\\u1234"), -1, "byte 0: a string is not closed"},
    {"\\u with a letter beyond f", B("\"\\u123g\""), -1, "byte 1: \\u without four hexadecimal digits"},
    {"\\u with a sign", B("\"\\u+123\""), -1, "byte 1: \\u without four hexadecimal digits"},
    {"\\u with a space", B("\"\\u 123\""), -1, "byte 1: \\u without four hexadecimal digits"},
    {"\\U", B("\"\\U0041\""), -1, "byte 1: an escape that does not exist"},
    {"\\x", B("\"\\x41\""), -1, "byte 1: an escape that does not exist"},
    {"\\0", B("\"\\0\""), -1, "byte 1: an escape that does not exist"},
    {"\\a", B("\"\\a\""), -1, "byte 1: an escape that does not exist"},
    {"\\'", B("\"\\'\""), -1, "byte 1: an escape that does not exist"},
    {"an escaped line end", B("\"\\\n\""), -1, "byte 1: an escape that does not exist"},
    {"an escaped byte of UTF-8", B("\"\\\xc3\xa9\""), -1, "byte 1: an escape that does not exist"},
    {"a line end", B("\"a\nb\""), -1, "byte 2: a control character in a string"},
    {"a tab", B("\"\t\""), -1, "byte 1: a control character in a string"},
    {"a NUL", B("\"a\0b\""), -1, "byte 2: a control character in a string"},
    {"0x1f", B("\"\x1f\""), -1, "byte 1: a control character in a string"},
    {"a control character in a name", B("{\"a\x01\":1}"), -1, "byte 3: a control character in a string"},
    {"a control character after a sequence", B("\"\xc3\xa9\n\""), -1, "byte 3: a control character in a string"},
    {"a sequence that the quote cuts off", B("\"\xe2\x82\""), -1, "byte 1: text that is not UTF-8"},
    {"a sequence that the end cuts off", B("\"\xe2\x82"), -1, "byte 1: text that is not UTF-8"},
    {"a name that is not UTF-8", B("{\"\xff\":1}"), -1, "byte 2: text that is not UTF-8"},
};

static void
test_check(void **state)
{
    for (size_t i = 0; i < countof(checks); i++)
        expect_verdict(checks[i].claim, checks[i].text, checks[i].type, checks[i].reason);
}

static void
test_null_is_empty(void **state)
{
    struct bytes none = {NULL, 0}, value;
    struct err err = {0};
    size_t at = 0;

    assert_int_equal(json_check(none, &err), -1);
    assert_string_equal(err.text, "byte 0: no value");
    assert_int_equal(json_get(none, "a", &value), J_NONE);
    assert_int_equal(json_next(none, &at, &value, &value), J_NONE);
    assert_int_equal(json_element(none, &at, &value), J_NONE);
    assert_int_equal(json_string_is(none, ""), 0);
    assert_int_equal(json_utf8_tail(none), 0);
}

static void
test_check_object(void **state)
{
    struct err err = {0};

    assert_int_equal(json_check_object(BYTES(" {\"a\":[]} "), &err), 0);
    assert_int_equal(err.code, 0);
    assert_int_equal(json_check_object(BYTES("[]"), &err), -1);
    assert_string_equal(err.text, "not an object");
    assert_int_equal(json_check_object(BYTES("\"{}\""), &err), -1);
    assert_string_equal(err.text, "not an object");
    assert_int_equal(json_check_object(BYTES("{"), &err), -1);
    assert_string_equal(err.text, "byte 1: no name in quotes");
}

/* A value that is cut anywhere is no value, and no cut makes the reader look beyond it. */
static void
test_cut_everywhere(void **state)
{
    struct bytes text = BYTES("{\"a\":[1.5e3,-0,{\"\\u00e9\\n\":true}],"
                              "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\":"
                              "[false,null,\"0123456789abcdef012345\"]}");
    struct err err = {0};

    assert_int_equal(json_check(text, &err), J_OBJECT);
    for (size_t len = 0; len < text.len; len++)
        if (json_check(at_edge((struct bytes){text.data, len}), &err) != -1)
            fail_msg("cut at byte %zu, it is accepted", len);
}

/*** depth ***/

static void
expect_depth(const char *claim, const char *open, const char *middle, const char *close,
             size_t depth, const char *reason)
{
    scoped(buf_release) struct buf text = {0};
    int type = *open == '{' ? J_OBJECT : J_ARRAY;

    add(&text, open, depth);
    add(&text, middle, 1);
    add(&text, close, depth);
    expect_verdict(claim, bytes_in(&text), reason ? -1 : type, reason);
}

static void
test_depth(void **state)
{
    const char *array = "byte 512: arrays and objects are too deep inside each other";
    const char *object = "byte 2560: arrays and objects are too deep inside each other";
    const char *both = "byte 1280: arrays and objects are too deep inside each other";

    assert_int_equal(JSON_DEPTH, 512);
    expect_depth("511 arrays", "[", "", "]", 511, NULL);
    expect_depth("512 arrays", "[", "", "]", 512, NULL);
    expect_depth("512 arrays and a value", "[", "7", "]", 512, NULL);
    expect_depth("513 arrays", "[", "", "]", 513, array);
    expect_depth("10,000 arrays", "[", "", "]", 10000, array);
    expect_depth("10,000 arrays that are open", "[", "", "", 10000, array);
    expect_depth("511 objects", "{\"a\":", "1", "}", 511, NULL);
    expect_depth("512 objects", "{\"a\":", "1", "}", 512, NULL);
    expect_depth("513 objects", "{\"a\":", "1", "}", 513, object);
    expect_depth("10,000 objects", "{\"a\":", "1", "}", 10000, object);
    expect_depth("256 of both", "[{\"\":", "1", "}]", 256, NULL);
    expect_depth("257 of both", "[{\"\":", "1", "}]", 257, both);
    expect_depth("a wrong end at the bottom", "[", "}", "]", 512, "byte 512: no value");
}

/* Depth is what is open, not what was opened. */
static void
test_width(void **state)
{
    scoped(buf_release) struct buf text = {0};

    add(&text, "[0", 1);
    add(&text, ",[[]],{\"a\":{}}", 2000);
    add(&text, "]", 1);
    expect_verdict("2000 arrays beside each other", bytes_in(&text), J_ARRAY, NULL);
}

/* Each level remembers its own kind, wherever its bit lies. */
static void
test_kinds(void **state)
{
    for (size_t odd = 0; odd < JSON_DEPTH; odd++) {
        scoped(buf_release) struct buf text = {0};
        add(&text, "[", odd);
        add(&text, "{\"\":", 1);
        add(&text, "[", JSON_DEPTH - odd - 1);
        add(&text, "0", 1);
        add(&text, "]", JSON_DEPTH - odd - 1);
        add(&text, "}", 1);
        add(&text, "]", odd);
        expect_verdict("one object among arrays", bytes_in(&text),
                       odd ? J_ARRAY : J_OBJECT, NULL);
    }
}

/*** UTF-8 ***/

static const struct {
    const char *claim;
    struct bytes text;
    const char *quoted; /* what json_quote makes of it, without the quotes */
} broken[] = {
    {"a continuation alone", B("\x80"), "\ufffd"},
    {"the last continuation alone", B("\xbf"), "\ufffd"},
    {"two continuations", B("\x80\xbf"), "\ufffd\ufffd"},
    {"an overlong NUL", B("\xc0\x80"), "\ufffd\ufffd"},
    {"an overlong slash", B("\xc0\xaf"), "\ufffd\ufffd"},
    {"an overlong DEL", B("\xc1\xbf"), "\ufffd\ufffd"},
    {"an overlong slash of three bytes", B("\xe0\x80\xaf"), "\ufffd\ufffd\ufffd"},
    {"an overlong U+07FF", B("\xe0\x9f\xbf"), "\ufffd\ufffd\ufffd"},
    {"an overlong slash of four bytes", B("\xf0\x80\x80\xaf"), "\ufffd\ufffd\ufffd\ufffd"},
    {"an overlong U+FFFF", B("\xf0\x8f\xbf\xbf"), "\ufffd\ufffd\ufffd\ufffd"},
    {"the first surrogate", B("\xed\xa0\x80"), "\ufffd\ufffd\ufffd"},
    {"the last surrogate", B("\xed\xbf\xbf"), "\ufffd\ufffd\ufffd"},
    {"a pair of surrogates", B("\xed\xa0\xbd\xed\xb8\x80"), "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"},
    {"U+110000", B("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd"},
    {"U+140000", B("\xf5\x80\x80\x80"), "\ufffd\ufffd\ufffd\ufffd"},
    {"five bytes", B("\xf8\x88\x80\x80\x80"), "\ufffd\ufffd\ufffd\ufffd\ufffd"},
    {"six bytes", B("\xfc\x84\x80\x80\x80\x80"), "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"},
    {"0xfe", B("\xfe"), "\ufffd"},
    {"0xff", B("\xff"), "\ufffd"},
    {"one of two bytes", B("\xc3"), "\ufffd"},
    {"one of three bytes", B("\xe2"), "\ufffd"},
    {"two of three bytes", B("\xe2\x82"), "\ufffd"},
    {"two of three bytes after E0", B("\xe0\xa0"), "\ufffd"},
    {"two of three bytes after ED", B("\xed\x9f"), "\ufffd"},
    {"one of four bytes", B("\xf0"), "\ufffd"},
    {"two of four bytes", B("\xf0\x9f"), "\ufffd"},
    {"three of four bytes", B("\xf0\x9f\x98"), "\ufffd"},
    {"three of four bytes after F4", B("\xf4\x8f\xbf"), "\ufffd"},
    {"a sequence that a letter breaks", B("\xe2" "A\x82"), "\ufffdA\ufffd"},
    {"a sequence that a sequence breaks", B("\xe2\x82\xc3\xa9"), "\ufffd\u00e9"},
    {"a sequence that itself breaks", B("\xf0\x9f\xf0\x9f\x98\x80"), "\ufffd\U0001f600"},
    {"latin-1", B("caf\xe9 na\xefve"), "caf\ufffd na\ufffdve"},
    {"the example of the standard", B("a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d"), "a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd"},
};

static size_t
first_high(struct bytes text)
{
    size_t i = 0;

    while (text.data[i] < 0x80)
        i++;
    return i;
}

/* At every place in a block, and with every number of bytes behind. */
static void
test_broken_utf8(void **state)
{
    for (size_t i = 0; i < countof(broken); i++) {
        for (size_t before = 0; before <= 34; before++) {
            for (size_t after = 0; after <= 18; after++) {
                scoped(buf_release) struct buf text = {0};
                struct bytes wrong = broken[i].text;
                char reason[64];
                add(&text, "\"", 1);
                add(&text, "x", before);
                assert_int_equal(buf_add(&text, wrong.data, wrong.len), 0);
                add(&text, "y", after);
                add(&text, "\"", 1);
                snprintf(reason, sizeof reason, "byte %zu: text that is not UTF-8",
                         1 + before + first_high(wrong));
                expect_verdict(broken[i].claim, bytes_in(&text), -1, reason);
            }
        }
    }
}

/* The definition, as plainly as it can be written. */
static int
is_utf8(const uint8_t *s, size_t len)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};

    while (len) {
        size_t n = s[0] < 0x80   ? 1
                   : s[0] < 0xc0 ? 0
                   : s[0] < 0xe0 ? 2
                   : s[0] < 0xf0 ? 3
                   : s[0] < 0xf8 ? 4
                                 : 0;
        uint32_t code = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
        if (n == 0 || n > len)
            return 0;
        for (size_t i = 1; i < n; i++) {
            if ((s[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (s[i] & 0x3f);
        }
        if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return 0;
        s += n;
        len -= n;
    }
    return 1;
}

static void
expect_sequence(const uint8_t *sequence, size_t len)
{
    uint8_t text[8] = {'"'};
    struct err err;
    int right = is_utf8(sequence, len);

    memcpy(text + 1, sequence, len);
    text[1 + len] = '"';
    if ((json_check((struct bytes){text, len + 2}, &err) == J_STRING) != right)
        fail_msg("%02x %02x %02x %02x is%s UTF-8", text[1], text[2], text[3], text[4],
                 right ? "" : " not");
}

/* Every lead with every second byte, and the continuations with their neighbours. */
static void
test_every_sequence(void **state)
{
    static const uint8_t ends[] = {0x41, 0x7f, 0x80, 0x81, 0x9f,
                                   0xa0, 0xbe, 0xbf, 0xc0, 0xff};

    for (unsigned lead = 0x80; lead <= 0xff; lead++) {
        for (unsigned second = 0x80; second <= 0xff; second++) {
            uint8_t s[4] = {(uint8_t)lead, (uint8_t)second};
            expect_sequence(s, 2);
            for (size_t i = 0; i < countof(ends); i++) {
                s[2] = ends[i];
                expect_sequence(s, 3);
                for (size_t j = 0; j < countof(ends); j++) {
                    s[3] = ends[j];
                    expect_sequence(s, 4);
                }
            }
        }
    }
}

/* Accepted, quoted as it is, and found again from \u: every character that there is. */
static void
test_every_character(void **state)
{
    scoped(buf_release) struct buf quoted = {0}, meant = {0};
    struct err err;

    for (uint32_t c = 0x80; c <= 0x10ffff; c++) {
        char escaped[16];
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        if (c < 0x10000)
            snprintf(escaped, sizeof escaped, "\"\\u%04x\"", (unsigned)c);
        else
            snprintf(escaped, sizeof escaped, "\"\\u%04X\\u%04x\"",
                     (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
                     (unsigned)(0xdc00 + ((c - 0x10000) & 0x3ff)));
        quoted.len = meant.len = 0;
        assert_int_equal(json_unescape(bytes_of(escaped), &meant), 0);
        assert_int_equal(json_quote(bytes_in(&meant), &quoted), 0);
        if (!is_utf8(meant.data, meant.len) || quoted.len != meant.len + 2 ||
            memcmp(quoted.data + 1, meant.data, meant.len) != 0 ||
            json_check(bytes_in(&quoted), &err) != J_STRING)
            fail_msg("U+%04X is not the same on all ways", (unsigned)c);
    }
}

/* Whatever stops the run of plain bytes is found at every place in a block. */
static void
test_every_place(void **state)
{
    static const struct {
        const char *text, *reason;
    } stops[] = {
        {"\n", "a control character in a string"},
        {"\x1f", "a control character in a string"},
        {"\\q", "an escape that does not exist"},
        {"\"1", "something after the value"},
        {"\xff", "text that is not UTF-8"},
    };

    for (size_t i = 0; i < countof(stops); i++) {
        for (size_t before = 0; before <= 70; before++) {
            for (size_t after = 0; after <= 35; after++) {
                scoped(buf_release) struct buf text = {0};
                char reason[64];
                add(&text, "\"", 1);
                add(&text, " ", before);
                add(&text, stops[i].text, 1);
                add(&text, "\x7f", after);
                add(&text, "\"", 1);
                snprintf(reason, sizeof reason, "byte %zu: %s",
                         1 + before + (stops[i].text[0] == '"'), stops[i].reason);
                expect_verdict(stops[i].text, bytes_in(&text), -1, reason);
            }
        }
    }
}

static const struct {
    const char *claim;
    struct bytes text;
    size_t tail;
} tails[] = {
    {"nothing", B(""), 0},
    {"ASCII", B("abc"), 0},
    {"two bytes, complete", B("a\xc3\xa9"), 0},
    {"three bytes, complete", B("\xe2\x82\xac"), 0},
    {"four bytes, complete", B("\xf0\x9f\x98\x80"), 0},
    {"one of two", B("a\xc3"), 1},
    {"one of two and nothing before", B("\xdf"), 1},
    {"one of three", B("a\xe2"), 1},
    {"two of three", B("a\xe2\x82"), 2},
    {"one of four", B("a\xf0"), 1},
    {"two of four", B("a\xf0\x9f"), 2},
    {"three of four", B("a\xf0\x9f\x98"), 3},
    {"three of four and nothing before", B("\xf4\x8f\xbf"), 3},
    {"one of two after a sequence", B("\xf0\x9f\x98\x80\xc3"), 1},
    {"two of three after a broken one", B("\xf0\x9f\xe2\x82"), 2},
    {"a continuation alone", B("a\x80"), 0},
    {"a continuation too many", B("\xe2\x82\xac\x80"), 0},
    {"four continuations", B("\x80\x80\x80\x80"), 0},
    {"what begins overlong: C0", B("\xc0"), 0},
    {"what begins overlong: C1", B("\xc1"), 0},
    {"what begins overlong: E0", B("\xe0\x9f"), 0},
    {"what begins overlong: F0", B("\xf0\x8f\xbf"), 0},
    {"E0 may go on", B("\xe0"), 1},
    {"E0 A0 may go on", B("\xe0\xa0"), 2},
    {"a surrogate", B("\xed\xa0"), 0},
    {"the last before the surrogates", B("\xed\x9f"), 2},
    {"ED may go on", B("\xed"), 1},
    {"beyond U+10FFFF", B("\xf4\x90"), 0},
    {"F4 may go on", B("\xf4"), 1},
    {"F5 leads to nothing", B("\xf5"), 0},
    {"0xff", B("\xff"), 0},
    {"a lead that a letter breaks", B("\xe2" "a"), 0},
};

static void
test_utf8_tail(void **state)
{
    for (size_t i = 0; i < countof(tails); i++) {
        size_t n = json_utf8_tail(at_edge(tails[i].text));
        if (n != tails[i].tail)
            fail_msg("%s: %zu instead of %zu", tails[i].claim, n, tails[i].tail);
    }
}

/* Text that is cut where json_utf8_tail says comes out as if it had never been cut. */
static void
test_pieces(void **state)
{
    struct bytes text = BYTES("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xe2\x82\xff"
                              "\xed\xa0\x80\xf0\x9f\x98z\x80\xf4\x8f\xbf\xbf\xc3");
    scoped(buf_release) struct buf whole = {0};

    assert_int_equal(json_quote(text, &whole), 0);
    for (size_t cut = 0; cut <= text.len; cut++) {
        scoped(buf_release) struct buf first = {0}, second = {0};
        size_t len = cut - json_utf8_tail((struct bytes){text.data, cut});
        struct bytes rest = {text.data + len, text.len - len};
        assert_int_equal(json_quote((struct bytes){text.data, len}, &first), 0);
        assert_int_equal(json_quote(rest, &second), 0);
        first.len--; /* the quotes between the pieces */
        assert_int_equal(buf_add(&first, second.data + 1, second.len - 1), 0);
        if (!same(bytes_in(&first), bytes_in(&whole)))
            fail_msg("cut at byte %zu", cut);
    }
}

/*** walking ***/

static const struct {
    const char *claim, *object, *name;
    enum json_type type;
    const char *value;
} gets[] = {
    {"a string", "{\"a\":\"x\"}", "a", J_STRING, "\"x\""},
    {"a number", "{\"a\":-1.5e3}", "a", J_NUMBER, "-1.5e3"},
    {"a number before white space", "{\"a\": 1 }", "a", J_NUMBER, "1"},
    {"true", "{\"a\":true}", "a", J_TRUE, "true"},
    {"false", "{\"a\":false}", "a", J_FALSE, "false"},
    {"null is a value", "{\"a\":null}", "a", J_NULL, "null"},
    {"an object, with what is in it", "{\"a\": {\"b\": [1, 2]} }", "a", J_OBJECT, "{\"b\": [1, 2]}"},
    {"an array, with what is in it", "{\"a\":[{\"a\":[]},[]]}", "a", J_ARRAY, "[{\"a\":[]},[]]"},
    {"the first of many", "{\"a\":1,\"b\":2,\"c\":3}", "a", J_NUMBER, "1"},
    {"one in the middle", "{\"a\":1,\"b\":2,\"c\":3}", "b", J_NUMBER, "2"},
    {"the last of many", "{\"a\":1,\"b\":2,\"c\":3}", "c", J_NUMBER, "3"},
    {"white space everywhere", " \n{ \t\"a\" \r:\n 1 , \"b\" : 2 } ", "b", J_NUMBER, "2"},
    {"no such name", "{\"a\":1}", "b", J_NONE, NULL},
    {"an empty object", "{}", "a", J_NONE, NULL},
    {"an empty object with white space", " { } ", "a", J_NONE, NULL},
    {"the empty name", "{\"a\":1,\"\":2}", "", J_NUMBER, "2"},
    {"a name is not its beginning", "{\"abc\":1}", "ab", J_NONE, NULL},
    {"a name is not what begins with it", "{\"ab\":1}", "abc", J_NONE, NULL},
    {"names have case", "{\"A\":1}", "a", J_NONE, NULL},
    {"a value is not a name", "{\"x\":\"a\",\"y\":1}", "a", J_NONE, NULL},
    {"of duplicates the last counts", "{\"a\":1,\"b\":0,\"a\":[2]}", "a", J_ARRAY, "[2]"},
    {"of duplicates the last, even null", "{\"a\":1,\"a\":null}", "a", J_NULL, "null"},
    {"of duplicates the last, though escaped", "{\"a\":1,\"\\u0061\":2}", "a", J_NUMBER, "2"},
    {"of duplicates the last, though not escaped", "{\"\\u0061\":1,\"a\":2}", "a", J_NUMBER, "2"},
    {"a name in escapes", "{\"\\u006d\\u0073g_\\u0069d\":1}", "msg_id", J_NUMBER, "1"},
    {"a name with a quote", "{\"a\\\"b\":1}", "a\"b", J_NUMBER, "1"},
    {"a name with a backslash", "{\"a\\\\\":1}", "a\\", J_NUMBER, "1"},
    {"a name with a line end", "{\"a\\n\":1}", "a\n", J_NUMBER, "1"},
    {"a name with a slash", "{\"a\\/b\":1}", "a/b", J_NUMBER, "1"},
    {"what an escape looks like is not what it means", "{\"\\u0061\":1}", "\\u0061", J_NONE, NULL},
    {"a name with a NUL is not its beginning", "{\"a\\u0000\":1}", "a", J_NONE, NULL},
    {"a name with a NUL is not the empty name", "{\"\\u0000\":1}", "", J_NONE, NULL},
    {"the same name deeper", "{\"b\":{\"a\":1}}", "a", J_NONE, NULL},
    {"the same name deeper and before", "{\"b\":{\"a\":1},\"a\":2}", "a", J_NUMBER, "2"},
    {"the same name deeper and behind", "{\"a\":2,\"b\":[{\"a\":1}]}", "a", J_NUMBER, "2"},
    {"the same name inside of itself", "{\"a\":{\"a\":{\"a\":1}}}", "a", J_OBJECT, "{\"a\":{\"a\":1}}"},
    {"brackets in strings are text", "{\"x\":[\"]}\",\"{[\"],\"a\":1}", "a", J_NUMBER, "1"},
    {"quotes in strings are text", "{\"x\":\"\\\",\\\"a\\\":2\",\"a\":1}", "a", J_NUMBER, "1"},
    {"a backslash before the quote", "{\"x\":\"\\\\\",\"a\":1}", "a", J_NUMBER, "1"},
    {"a backslash before the quote, deeper", "{\"x\":[\"\\\\\"],\"a\":1}", "a", J_NUMBER, "1"},
    {"behind long values", "{\"x\":\"0123456789abcdef0123456789abcdef\",\"y\":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]],\"a\":1}", "a", J_NUMBER, "1"},
    {"behind other alphabets", "{\"\xe2\x82\xac\":\"\xf0\x9f\x98\x80\",\"a\":1}", "a", J_NUMBER, "1"},
    {"an array has no members", "[\"a\",1]", "a", J_NONE, NULL},
    {"an array around an object", "[{\"a\":1}]", "a", J_NONE, NULL},
    {"a string has no members", "\"{\\\"a\\\":1}\"", "a", J_NONE, NULL},
    {"a number has no members", "1", "a", J_NONE, NULL},
};

static void
test_get(void **state)
{
    for (size_t i = 0; i < countof(gets); i++) {
        struct bytes object = at_edge(bytes_of(gets[i].object)), value = BYTES("untouched");
        struct err err;
        enum json_type type;
        assert_true(json_check(object, &err) >= 0);
        type = json_get(object, gets[i].name, &value);
        if (type != gets[i].type)
            fail_msg("%s: type %d instead of %d", gets[i].claim, type, gets[i].type);
        if (!bytes_equal(value, type == J_NONE ? "untouched" : gets[i].value))
            fail_msg("%s: '%.*s' instead of '%s'", gets[i].claim, (int)value.len,
                     value.data, gets[i].value);
    }
}

static void
test_next(void **state)
{
    struct bytes object = BYTES(" { \"a\" : 1 , \"b\\n\":[ ],\"a\":{\"c\":0}} ");
    struct bytes name, value;
    size_t at = 0, end;

    assert_int_equal(json_next(object, &at, &name, &value), J_NUMBER);
    assert_true(bytes_equal(name, "\"a\"") && bytes_equal(value, "1"));
    assert_int_equal(json_next(object, &at, &name, &value), J_ARRAY);
    assert_true(bytes_equal(name, "\"b\\n\"") && bytes_equal(value, "[ ]"));
    assert_int_equal(json_next(object, &at, &name, &value), J_OBJECT);
    assert_true(bytes_equal(name, "\"a\"") && bytes_equal(value, "{\"c\":0}"));
    end = at;
    for (int again = 0; again < 3; again++)
        assert_int_equal(json_next(object, &at, &name, &value), J_NONE);
    assert_int_equal(at, end);
    assert_true(bytes_equal(name, "\"a\"") && bytes_equal(value, "{\"c\":0}"));

    at = 0;
    assert_int_equal(json_next(BYTES("{}"), &at, &name, &value), J_NONE);
    assert_int_equal(json_next(BYTES("[\"a\",1]"), &at, &name, &value), J_NONE);
    at = SIZE_MAX;
    assert_int_equal(json_next(object, &at, &name, &value), J_NONE);
}

static void
test_element(void **state)
{
    struct bytes array = BYTES(" [ 1 ,\"]\", [[]] ,{\"a\":[]},null,true,false ] ");
    static const struct {
        enum json_type type;
        const char *value;
    } wants[] = {
        {J_NUMBER, "1"},           {J_STRING, "\"]\""}, {J_ARRAY, "[[]]"},
        {J_OBJECT, "{\"a\":[]}"}, {J_NULL, "null"},     {J_TRUE, "true"},
        {J_FALSE, "false"},
    };
    struct bytes value;
    size_t at = 0;

    for (size_t i = 0; i < countof(wants); i++) {
        assert_int_equal(json_element(array, &at, &value), wants[i].type);
        assert_true(bytes_equal(value, wants[i].value));
    }
    assert_int_equal(json_element(array, &at, &value), J_NONE);
    assert_int_equal(json_element(array, &at, &value), J_NONE);
    at = 0;
    assert_int_equal(json_element(BYTES(" [ ] "), &at, &value), J_NONE);
    assert_int_equal(json_element(BYTES("{\"a\":1}"), &at, &value), J_NONE);
    at = SIZE_MAX;
    assert_int_equal(json_element(array, &at, &value), J_NONE);
}

static void
expect_inside(struct bytes part, struct bytes whole)
{
    assert_true(part.data >= whole.data && part.data <= whole.data + whole.len);
    assert_true(part.len <= (size_t)(whole.data + whole.len - part.data));
}

/* Of bytes that were not checked one thing is promised: that a walk stays inside. */
static void
walk_unchecked(struct bytes text)
{
    scoped(buf_release) struct buf meant = {0};
    struct bytes name, value;
    int64_t number;
    size_t at = 0, steps = 0;

    while (json_next(text, &at, &name, &value) != J_NONE) {
        expect_inside(name, text);
        expect_inside(value, text);
        json_string_is(name, "a\xc3\xa9");
        json_int64(value, &number);
        meant.len = 0;
        assert_int_equal(json_unescape(value, &meant), 0);
        assert_true(meant.len <= value.len);
        assert_true(++steps <= text.len);
    }
    for (at = steps = 0; json_element(text, &at, &value) != J_NONE; steps++) {
        expect_inside(value, text);
        assert_true(steps <= text.len);
    }
    json_string_is(text, "a");
    assert_int_equal(json_unescape(text, &meant), 0);
}

static void
test_unchecked(void **state)
{
    static const uint8_t bytes[] = {0,   '"', '\\', '[', ']', '{', '}',
                                    ',', ':', 'u',  't', '1', ' ', 0xe2};
    struct bytes text = BYTES("{\"a\\u00e9\":[1,{\"b\":\"\\ud83d\\ude00\"}],"
                              "\"c\":\"x\\n\",\"d\":true,\"e\":-1.5,"
                              "\"f\":\"0123456789abcdef0123456789abcdef\"}");

    for (size_t i = 0; i < text.len; i++) {
        walk_unchecked(at_edge((struct bytes){text.data, i}));
        walk_unchecked(at_edge((struct bytes){text.data + i, text.len - i}));
        for (size_t j = 0; j < countof(bytes); j++) {
            struct bytes copy = at_edge(text);
            ((uint8_t *)copy.data)[i] = bytes[j];
            walk_unchecked(copy);
        }
    }
}

/*** what strings and numbers mean ***/

static const struct {
    const char *claim, *string;
    struct bytes meaning;
} strings[] = {
    {"nothing", "\"\"", B("")},
    {"plain text", "\"abc\"", B("abc")},
    {"UTF-8 as it is", "\"\xc3\xa9\xf0\x9f\x98\x80\"", B("\xc3\xa9\xf0\x9f\x98\x80")},
    {"every short escape", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", B("\"\\/\b\f\n\r\t")},
    {"text around escapes", "\"a\\nb\\tc\"", B("a\nb\tc")},
    {"a backslash before an n", "\"\\\\n\"", B("\\n")},
    {"one byte", "\"\\u0041\\u007f\"", B("A\x7f")},
    {"two bytes", "\"\\u0080\\u07fF\"", B("\xc2\x80\xdf\xbf")},
    {"three bytes", "\"\\u0800\\uFFFf\"", B("\xe0\xa0\x80\xef\xbf\xbf")},
    {"a NUL", "\"a\\u0000b\"", B("a\0b")},
    {"a surrogate pair", "\"\\ud83d\\ude00\"", B("\xf0\x9f\x98\x80")},
    {"the first surrogate pair", "\"\\uD800\\uDC00\"", B("\xf0\x90\x80\x80")},
    {"the last surrogate pair", "\"\\udbff\\udfff\"", B("\xf4\x8f\xbf\xbf")},
    {"two pairs", "\"\\ud83d\\ude00\\ud83d\\ude01\"", B("\xf0\x9f\x98\x80\xf0\x9f\x98\x81")},
    {"a lone high surrogate", "\"\\ud800\"", B("\xed\xa0\x80")},
    {"a lone low surrogate", "\"\\udfff\"", B("\xed\xbf\xbf")},
    {"a lone high surrogate before text", "\"\\ud83dabcdef\"", B("\xed\xa0\xbd" "abcdef")},
    {"a lone high surrogate before an escape", "\"\\ud83d\\n\"", B("\xed\xa0\xbd\n")},
    {"a lone high surrogate before a letter", "\"\\ud83d\\u0041\"", B("\xed\xa0\xbd" "A")},
    {"two high surrogates", "\"\\ud83d\\ud83d\"", B("\xed\xa0\xbd\xed\xa0\xbd")},
    {"a high surrogate before a pair", "\"\\ud83d\\ud83d\\ude00\"", B("\xed\xa0\xbd\xf0\x9f\x98\x80")},
    {"a pair the wrong way round", "\"\\ude00\\ud83d\"", B("\xed\xb8\x80\xed\xa0\xbd")},
    {"two low surrogates", "\"\\ude00\\ude00\"", B("\xed\xb8\x80\xed\xb8\x80")},
    {"a letter where the second backslash would be", "\"\\ud83dxude00\"", B("\xed\xa0\xbd" "xude00")},
    {"a low surrogate after a pair", "\"\\ud83d\\ude00\\ude00\"", B("\xf0\x9f\x98\x80\xed\xb8\x80")},
    {"a backslash between surrogates", "\"\\ud83d\\\\ude00\"", B("\xed\xa0\xbd\\ude00")},
};

static void
test_unescape(void **state)
{
    for (size_t i = 0; i < countof(strings); i++) {
        scoped(buf_release) struct buf meant = {0};
        struct bytes string = at_edge(bytes_of(strings[i].string));
        struct err err;
        assert_int_equal(json_check(string, &err), J_STRING);
        assert_int_equal(buf_text(&meant, "before"), 0);
        assert_int_equal(json_unescape(string, &meant), 0);
        if (!same((struct bytes){meant.data + 6, meant.len - 6}, strings[i].meaning))
            fail_msg("%s: '%.*s'", strings[i].claim, (int)meant.len, meant.data);
        assert_memory_equal(meant.data, "before", 6);
    }
}

static void
test_string_is(void **state)
{
    for (size_t i = 0; i < countof(strings); i++) {
        struct bytes string = at_edge(bytes_of(strings[i].string)), m = strings[i].meaning;
        char text[64] = "";
        memcpy(text, m.data, m.len);
        if (json_string_is(string, text) != (strlen(text) == m.len))
            fail_msg("%s: is not what it means", strings[i].claim);
        strcat(text, "x");
        if (json_string_is(string, text))
            fail_msg("%s: is more than it means", strings[i].claim);
        if (m.len) {
            text[m.len - 1] = 0;
            if (json_string_is(string, text))
                fail_msg("%s: is less than it means", strings[i].claim);
        }
    }
    assert_false(json_string_is(BYTES("1"), "1"));
    assert_false(json_string_is(BYTES("\""), ""));
    assert_false(json_string_is(BYTES("null"), "ul"));
}

static const struct {
    const char *claim, *number;
    int r;
    int64_t value;
} integers[] = {
    {"zero", "0", 0, 0},
    {"minus zero", "-0", 0, 0},
    {"one", "1", 0, 1},
    {"minus one", "-1", 0, -1},
    {"32 bits", "4294967296", 0, 4294967296},
    {"more than a double holds", "9007199254740993", 0, 9007199254740993},
    {"the largest", "9223372036854775807", 0, INT64_MAX},
    {"one more than the largest", "9223372036854775808", -1, 0},
    {"ten times the largest", "92233720368547758070", -1, 0},
    {"the smallest", "-9223372036854775808", 0, INT64_MIN},
    {"one less than the smallest", "-9223372036854775809", -1, 0},
    {"2 to the 64", "18446744073709551616", -1, 0},
    {"2 to the 64 and one, which would wrap to 1", "18446744073709551617", -1, 0},
    {"many digits", "100000000000000000000000000000000000000", -1, 0},
    {"a fraction", "1.5", -1, 0},
    {"a fraction of zero", "1.0", -1, 0},
    {"an exponent", "1e3", -1, 0},
    {"an exponent of zero", "1E0", -1, 0},
    {"nothing", "", -1, 0},
    {"a sign", "-", -1, 0},
    {"two signs", "--1", -1, 0},
    {"plus", "+1", -1, 0},
    {"white space", " 1", -1, 0},
    {"white space behind", "1 ", -1, 0},
    {"a string", "\"1\"", -1, 0},
    {"null", "null", -1, 0},
};

static void
test_integer(void **state)
{
    for (size_t i = 0; i < countof(integers); i++) {
        int64_t value = 4711, want = integers[i].r < 0 ? 4711 : integers[i].value;
        int r = json_int64(at_edge(bytes_of(integers[i].number)), &value);
        if (r != integers[i].r || value != want)
            fail_msg("%s: %d, %" PRId64, integers[i].claim, r, value);
    }
}

/*** json_quote ***/

static const struct {
    const char *claim;
    struct bytes text;
    const char *quoted;
} quotes[] = {
    {"nothing", B(""), "\"\""},
    {"plain text", B("abc"), "\"abc\""},
    {"quote and backslash", B("a\"b\\c"), "\"a\\\"b\\\\c\""},
    {"a slash is plain", B("a/b"), "\"a/b\""},
    {"DEL is plain", B("\x7f"), "\"\x7f\""},
    {"the short escapes", B("\b\f\n\r\t"), "\"\\b\\f\\n\\r\\t\""},
    {"a NUL", B("a\0b"), "\"a\\u0000b\""},
    {"other control characters", B("\x01\x0b\x1b[0m\x1f"), "\"\\u0001\\u000b\\u001b[0m\\u001f\""},
    {"UTF-8 as it is", B("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
    {"U+2028 as it is", B("\xe2\x80\xa8"), "\"\xe2\x80\xa8\""},
    {"U+FFFD as it is", B("\xef\xbf\xbd"), "\"\xef\xbf\xbd\""},
    {"a byte order mark as it is", B("\xef\xbb\xbf" "a"), "\"\xef\xbb\xbf" "a\""},
};

static void
test_quote(void **state)
{
    for (size_t i = 0; i < countof(quotes); i++) {
        scoped(buf_release) struct buf out = {0};
        assert_int_equal(json_quote(at_edge(quotes[i].text), &out), 0);
        if (!bytes_equal(bytes_in(&out), quotes[i].quoted))
            fail_msg("%s: %.*s", quotes[i].claim, (int)out.len, out.data);
    }
    for (size_t i = 0; i < countof(broken); i++) {
        scoped(buf_release) struct buf out = {0}, want = {0};
        assert_int_equal(buf_printf(&want, "\"%s\"", broken[i].quoted), 0);
        assert_int_equal(json_quote(at_edge(broken[i].text), &out), 0);
        if (!same(bytes_in(&out), bytes_in(&want)))
            fail_msg("%s: %.*s", broken[i].claim, (int)out.len, out.data);
    }
}

/* The text with every special byte written by hand, one byte at a time. `text` is UTF-8. */
static void
quote_slowly(struct bytes text, struct buf *ret)
{
    add(ret, "\"", 1);
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        if (c == '"' || c == '\\')
            buf_printf(ret, "\\%c", c);
        else if (c == '\n')
            add(ret, "\\n", 1);
        else if (c < 0x20)
            buf_printf(ret, "\\u%04x", c);
        else
            assert_int_equal(buf_add(ret, &c, 1), 0);
    }
    add(ret, "\"", 1);
}

static void
expect_round_trip(const char *claim, struct bytes text)
{
    scoped(buf_release) struct buf out = {0}, want = {0}, back = {0};
    struct err err;

    quote_slowly(text, &want);
    assert_int_equal(json_quote(at_edge(text), &out), 0);
    if (!same(bytes_in(&out), bytes_in(&want)))
        fail_msg("%s in %zu bytes: quoted wrongly", claim, text.len);
    if (json_check(at_edge(bytes_in(&out)), &err) != J_STRING)
        fail_msg("%s in %zu bytes: %s", claim, text.len, err.text);
    assert_int_equal(json_unescape(bytes_in(&out), &back), 0);
    if (!same(bytes_in(&back), text))
        fail_msg("%s in %zu bytes: does not come back", claim, text.len);
}

/* At every place in a block, and around the pieces for which room is made. */
static void
test_quote_every_place(void **state)
{
    static const char *const specials[] = {"\"", "\\", "\n", "\x01", "\"\\\n", "\xc3\xa9",
                                           "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    static const size_t starts[] = {0, 4096 - 40, 8192 - 40};

    for (size_t i = 0; i < countof(specials); i++) {
        for (size_t j = 0; j < countof(starts); j++) {
            for (size_t before = 0; before <= 50; before++) {
                scoped(buf_release) struct buf text = {0};
                add(&text, "x", starts[j] + before);
                add(&text, specials[i], 1);
                expect_round_trip(specials[i], bytes_in(&text));
                add(&text, "y", 35);
                expect_round_trip(specials[i], bytes_in(&text));
            }
        }
    }
}

static void
test_quote_floods(void **state)
{
    static const char *const floods[] = {"a",        "\x01",         "\"",
                                         "\n",       "\xc3\xa9",     "\xe2\x82\xac",
                                         "\xf0\x9f\x98\x80", "a line of output\n"};

    for (size_t i = 0; i < countof(floods); i++) {
        scoped(buf_release) struct buf text = {0};
        add(&text, floods[i], 9000);
        expect_round_trip(floods[i], bytes_in(&text));
    }
}

static void
test_quote_appends(void **state)
{
    scoped(buf_release) struct buf out = {0};

    assert_int_equal(buf_text(&out, "{\"text\":"), 0);
    assert_int_equal(json_quote(BYTES("a\n"), &out), 0);
    assert_int_equal(buf_text(&out, "}"), 0);
    assert_string_equal(buf_string(&out), "{\"text\":\"a\\n\"}");
}

/* A buffer that cannot grow stays what it was. */
static void
test_no_memory(void **state)
{
    struct buf full = {.data = NULL, .len = SIZE_MAX - 4, .size = 0};

    errno = 0;
    assert_int_equal(json_quote(BYTES("abc"), &full), -1);
    assert_int_equal(errno, ENOMEM);
    assert_true(full.len == SIZE_MAX - 4);
    errno = 0;
    assert_int_equal(json_unescape(BYTES("\"abc\""), &full), -1);
    assert_int_equal(errno, ENOMEM);
    assert_true(full.len == SIZE_MAX - 4);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_null_is_empty),
        cmocka_unit_test(test_check_object),
        cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_width),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_broken_utf8),
        cmocka_unit_test(test_every_sequence),
        cmocka_unit_test(test_every_character),
        cmocka_unit_test(test_every_place),
        cmocka_unit_test(test_utf8_tail),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_next),
        cmocka_unit_test(test_element),
        cmocka_unit_test(test_unchecked),
        cmocka_unit_test(test_unescape),
        cmocka_unit_test(test_string_is),
        cmocka_unit_test(test_integer),
        cmocka_unit_test(test_quote),
        cmocka_unit_test(test_quote_every_place),
        cmocka_unit_test(test_quote_floods),
        cmocka_unit_test(test_quote_appends),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
