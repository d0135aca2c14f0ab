/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_base.c: sizes, buffers, vectors, files and errors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/err.h"

#define KIB 1024ull
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)

/*** sizes ***/

static const struct {
    const char *claim, *text;
    int r;
    uint64_t bytes;
} sizes[] = {
    {"a number is bytes", "4096", 0, 4096},
    {"zero", "0", 0, 0},
    {"zero of a unit", "0g", 0, 0},
    {"bytes", "10b", 0, 10},
    {"bytes with a capital", "10B", 0, 10},
    {"k", "512k", 0, 512 * KIB},
    {"m", "3m", 0, 3 * MIB},
    {"g", "2g", 0, 2 * GIB},
    {"t", "1t", 0, TIB},
    {"capitals", "512K", 0, 512 * KIB},
    {"kb is as large as k", "1kb", 0, KIB},
    {"MB in capitals", "1MB", 0, MIB},
    {"GiB", "1GiB", 0, GIB},
    {"gib", "1gib", 0, GIB},
    {"a leading zero is not octal", "010", 0, 10},
    {"the largest", "18446744073709551615", 0, UINT64_MAX},
    {"the largest of a unit", "16777215t", 0, 16777215 * TIB},
    {"a space in front", " 5", -1, 0},
    {"less than nothing after a space", " -5", -1, 0},
    {"one more than the largest", "18446744073709551616", -1, 0},
    {"one more than the largest of a unit", "16777216t", -1, 0},
    {"k of the largest", "18446744073709551615k", -1, 0},
    {"nothing", "", -1, 0},
    {"a unit alone", "k", -1, 0},
    {"a word", "much", -1, 0},
    {"less than nothing", "-1", -1, 0},
    {"plus", "+1", -1, 0},
    {"a fraction", "1.5g", -1, 0},
    {"hexadecimal", "0x10", -1, 0},
    {"an exponent", "1e3", -1, 0},
    {"a space before the unit", "1 k", -1, 0},
    {"a space behind", "1k ", -1, 0},
    {"a unit that does not exist", "1x", -1, 0},
    {"a unit that is too large", "1p", -1, 0},
    {"ib without a unit", "1ib", -1, 0},
    {"two units", "1kk", -1, 0},
    {"half a unit", "1ki", -1, 0},
    {"a unit and more", "1kbit", -1, 0},
    {"bytes and more", "1bytes", -1, 0},
    {"a unit of another alphabet", "1\xc2\xb5", -1, 0},
};

static void
test_size_parse(void **state)
{
    for (size_t i = 0; i < countof(sizes); i++) {
        uint64_t bytes = 4711, want = sizes[i].r < 0 ? 4711 : sizes[i].bytes;
        int r;
        errno = 0;
        r = size_parse(sizes[i].text, &bytes);
        if (r != sizes[i].r || bytes != want)
            fail_msg("%s: %d, %" PRIu64 " instead of %" PRIu64, sizes[i].claim, r, bytes,
                     want);
        if (r < 0 && errno != EINVAL)
            fail_msg("%s: errno %d", sizes[i].claim, errno);
    }
}

static const struct {
    uint64_t bytes;
    const char *text;
} formats[] = {
    {0, "0 bytes"},
    {512, "512 bytes"},
    {1023, "1023 bytes"},
    {KIB, "1 KiB"},
    {1536, "1.5 KiB"},
    {4096, "4 KiB"},
    {512 * MIB, "512 MiB"},
    {GIB + 256 * MIB, "1.2 GiB"},
    {3 * GIB, "3 GiB"},
    {5 * TIB, "5 TiB"},
    {5000 * TIB, "5000 TiB"},
    {UINT64_MAX, "16777216 TiB"},
};

static void
test_size_format(void **state)
{
    for (size_t i = 0; i < countof(formats); i++) {
        char text[24];
        assert_ptr_equal(size_format(formats[i].bytes, text), text);
        assert_string_equal(text, formats[i].text);
    }
}

/*** bytes and buffers ***/

static void
test_bytes(void **state)
{
    assert_int_equal(bytes_of("abc").len, 3);
    assert_true(bytes_equal(BYTES("abc"), "abc"));
    assert_true(bytes_equal(BYTES(""), ""));
    assert_false(bytes_equal(BYTES("abc"), "ab"));
    assert_false(bytes_equal(BYTES("ab"), "abc"));
    assert_false(bytes_equal(BYTES("abd"), "abc"));
    assert_false(bytes_equal(BYTES("abc\0"), "abc"));
    assert_int_equal(BYTES("a\0b").len, 3);
}

static void
test_buf(void **state)
{
    scoped(buf_release) struct buf buf = {0};

    assert_string_equal(buf_string(&buf), "");
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf_text(&buf, "one"), 0);
    assert_int_equal(buf_add(&buf, "\0two", 4), 0);
    assert_int_equal(buf_add(&buf, NULL, 0), 0);
    assert_int_equal(buf.len, 7);
    assert_memory_equal(buf.data, "one\0two", 7);
    buf_consume(&buf, 4);
    assert_string_equal(buf_string(&buf), "two");
    buf_consume(&buf, 0);
    assert_int_equal(buf.len, 3);
    assert_int_equal(buf_printf(&buf, " and %d%s", 3, "!"), 0);
    assert_string_equal(buf_string(&buf), "two and 3!");
    assert_int_equal(buf.len, 10); /* the NUL does not count */
    buf_consume(&buf, 10);
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf_text(&buf, "again"), 0);
    buf_consume(&buf, SIZE_MAX);
    assert_string_equal(buf_string(&buf), "");
}

/* At every length around the sizes that a buffer grows to, nothing is lost or cut. */
static void
test_buf_grows(void **state)
{
    scoped(buf_release) struct buf bytes = {0}, texts = {0};

    for (unsigned i = 0; i < 5000; i++) {
        uint8_t c = (uint8_t)('a' + i % 26);
        assert_int_equal(buf_add(&bytes, &c, 1), 0);
        assert_int_equal(buf_printf(&texts, "%c", c), 0);
        assert_int_equal(strlen(buf_string(&texts)), i + 1);
        assert_true(bytes.size >= bytes.len);
    }
    assert_int_equal(bytes.len, 5000);
    assert_memory_equal(bytes.data, texts.data, 5000);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(bytes.data[i], 'a' + i % 26);
}

static void
test_buf_reserve(void **state)
{
    scoped(buf_release) struct buf buf = {0};
    const uint8_t *data;

    assert_int_equal(buf_reserve(&buf, 100001), 0);
    assert_true(buf.size >= 100001);
    assert_int_equal(buf.len, 0);
    data = buf.data;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(buf_printf(&buf, "%0100d", i), 0); /* and a NUL, at the end */
    assert_int_equal(buf.len, 100000);
    assert_ptr_equal(buf.data, data);
}

static void
test_buf_without_memory(void **state)
{
    scoped(buf_release) struct buf buf = {0};
    struct buf full = {.len = SIZE_MAX - 8};

    assert_int_equal(buf_text(&buf, "kept"), 0);
    errno = 0;
    assert_int_equal(buf_reserve(&buf, SIZE_MAX), -1); /* the sum does not fit */
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_int_equal(buf_add(&full, "nine bytes", 10), -1);
    assert_int_equal(errno, ENOMEM);
    assert_true(full.len == SIZE_MAX - 8);
    assert_int_equal(buf_printf(&full, "nine %s", "bytes"), -1);
    assert_null(buf_string(&(struct buf){.len = SIZE_MAX}));
    assert_string_equal(buf_string(&buf), "kept");
}

static void
test_buf_release(void **state)
{
    struct buf buf = {0};

    buf_release(&buf);
    assert_int_equal(buf_text(&buf, "x"), 0);
    errno = EXDEV;
    buf_release(&buf);
    assert_int_equal(errno, EXDEV);
    assert_null(buf.data);
    assert_int_equal(buf.len + buf.size, 0);
    buf_release(&buf);
}

/*** vectors ***/

static void
test_strv(void **state)
{
    struct strv v = {0};
    char text[] = "first";

    assert_false(strv_has(&v, "first"));
    assert_int_equal(strv_add(&v, text), 0);
    text[0] = 'F'; /* it has its own copy */
    assert_int_equal(strv_addf(&v, "%s=%d", "SECOND", 2), 0);
    assert_int_equal(strv_add(&v, ""), 0);
    assert_int_equal(v.len, 3);
    assert_string_equal(v.item[0], "first");
    assert_string_equal(v.item[1], "SECOND=2");
    assert_string_equal(v.item[2], "");
    assert_null(v.item[3]);
    assert_true(strv_has(&v, "first"));
    assert_true(strv_has(&v, ""));
    assert_false(strv_has(&v, "SECOND"));
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(strv_addf(&v, "%d", i), 0);
        assert_null(v.item[v.len]);
    }
    assert_true(strv_has(&v, "999"));
    errno = EXDEV;
    strv_release(&v);
    assert_int_equal(errno, EXDEV);
    assert_null(v.item);
    assert_int_equal(v.len, 0);
    strv_release(&v);
}

/*** descriptors and files ***/

static void
test_fd_close(void **state)
{
    int fds[2], none = -1;

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(fd_nonblock(fds[0]), 0);
    assert_true(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
    assert_int_equal(fd_write_all(fds[1], "text", 4), 0);
    errno = EXDEV;
    fd_close(&fds[0]);
    fd_close(&fds[1]);
    fd_close(&none);
    assert_int_equal(errno, EXDEV);
    assert_int_equal(fds[0], -1);
    assert_int_equal(fd_nonblock(fds[0]), -1);
    assert_int_equal(fd_write_all(fds[1], "text", 4), -1);
    assert_int_equal(errno, EBADF);
}

static void
test_str_free(void **state)
{
    char *text = strdup("text");

    errno = EXDEV;
    str_free(&text);
    str_free(&text);
    assert_null(text);
    assert_int_equal(errno, EXDEV);
}

static void
test_files(void **state)
{
    char path[] = "/tmp/husk-test-base.XXXXXX";
    scoped(fd_close) int fd = mkstemp(path);
    scoped(buf_release) struct buf content = {0}, again = {0};
    char block[10000];

    assert_true(fd >= 0);
    memset(block, 'x', sizeof block);
    assert_int_equal(fd_write_all(fd, block, sizeof block), 0);
    assert_int_equal(file_read(AT_FDCWD, path, sizeof block, &content), 0);
    assert_int_equal(content.len, sizeof block);
    assert_memory_equal(content.data, block, sizeof block);
    errno = 0;
    assert_int_equal(file_read(AT_FDCWD, path, sizeof block - 1, &again), -1);
    assert_int_equal(errno, EFBIG);
    assert_int_equal(file_write(AT_FDCWD, path, "max"), 0);
    again.len = 0;
    assert_int_equal(file_read(AT_FDCWD, path, sizeof block, &again), 0);
    assert_memory_equal(again.data, "maxxxx", 6); /* into the file, as into a knob */
    unlink(path);
    assert_int_equal(file_read(AT_FDCWD, path, 1, &again), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(file_write(AT_FDCWD, path, "max"), -1);
    assert_int_equal(errno, ENOENT);
}

/*** errors ***/

static void
test_err(void **state)
{
    struct err err = {0};

    assert_int_equal(err_set(&err, EPROTO, "%s of %d bytes", "HELLO", 7), -1);
    assert_int_equal(err.code, EPROTO);
    assert_string_equal(err.text, "HELLO of 7 bytes");
    assert_int_equal(err_wrap(&err, "interpreter %d", 2), -1);
    assert_int_equal(err.code, EPROTO);
    assert_string_equal(err.text, "interpreter 2: HELLO of 7 bytes");
    errno = ENOENT;
    assert_int_equal(err_errno(&err, "open '%s'", "/x"), -1);
    assert_int_equal(err.code, ENOENT);
    assert_int_equal(strncmp(err.text, "open '/x': ", 11), 0);
    assert_int_equal(strcasecmp(err.text + 11, "no such file or directory"), 0);
}

static void
test_err_is_cut(void **state)
{
    struct err err = {0};
    char text[2 * ERR_TEXT];

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    for (size_t len = ERR_TEXT - 20; len <= ERR_TEXT + 20; len++) {
        err_set(&err, EIO, "%.*s", (int)len, text);
        assert_int_equal(strlen(err.text), len < ERR_TEXT ? len : ERR_TEXT - 1);
        errno = EIO;
        err_errno(&err, "%.*s", (int)len, text);
        assert_in_range(strlen(err.text), ERR_TEXT - 20, ERR_TEXT - 1);
        err_wrap(&err, "%.*s", (int)len, text);
        assert_int_equal(strlen(err.text), ERR_TEXT - 1);
        assert_int_equal(err.code, EIO);
    }
    err_set(&err, EIO, "the cause");
    for (int i = 0; i < 100; i++)
        err_wrap(&err, "context");
    assert_int_equal(strlen(err.text), ERR_TEXT - 1);
    assert_int_equal(strncmp(err.text, "context: context: ", 18), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_parse),
        cmocka_unit_test(test_size_format),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_buf_grows),
        cmocka_unit_test(test_buf_reserve),
        cmocka_unit_test(test_buf_without_memory),
        cmocka_unit_test(test_buf_release),
        cmocka_unit_test(test_strv),
        cmocka_unit_test(test_fd_close),
        cmocka_unit_test(test_str_free),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_err_is_cut),
    };

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
