/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_progress.c: which states of a line are left out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "kernel/progress.h"

static const struct {
    const char *claim, *text, *wanted;
} claims[] = {
    {"nothing", "", ""},
    {"text without returns", "a\nb\nc", "a\nb\nc"},
    {"few states stay as they are", "\r1\r2\r3\r4", "\r1\r2\r3\r4"},
    {"line ends of other systems stay", "a\r\nb\r\nc\r\nd\r\ne\r\nf\r\n", "a\r\nb\r\nc\r\nd\r\ne\r\nf\r\n"},
    {"the last of many", "\r1\r2\r3\r4\r5", "\r5"},
    {"what goes on with an older line stays", "of 5\r1\r2\r3\r4\r5", "of 5\r5"},
    {"a wider one behind which the last is seen", "\r12345\r123\r1234\r12\r1\r2", "\r12345\r1234\r12\r2"},
    {"of equal ones the last", "\r123\r456\r78\r90\r12", "\r456\r12"},
    {"characters count, not bytes", "\r\xc3\xa9\xc3\xa9\rab\r\xc3\xa9\r\xc3\xa9\rxy", "\rxy"},
    {"the cursor back at the start", "\r1\r2\r3\r4\r5\r", "\r5\r"},
    {"each line by itself", "\r1\r2\r3\r4\r5\n\ra\rb\rc\rd\re\nf", "\r5\n\re\nf"},
    {"a line that ends with both", "\r1\r2\r3\r4\r5\r\n6", "\r5\r\n6"},
    {"nothing goes across a control character", "\r1\r2\r\033[1A3\r4\r5\r6", "\r2\r\033[1A3\r6"},
    {"nor across a tab", "\r1\r2\r\t\r4\r5\r6", "\r2\r\t\r6"},
    {"a state that erases the line", "\rlonger\r2\r\033[K3\r4\r5\r6", "\r\033[K3\r6"},
    {"of those that erase the last", "\r\033[K1\r\033[2Klonger\r\033[K3\r\033[K4\r\033[K5", "\r\033[K5"},
};

static void
test_claims(void **state)
{
    for (size_t i = 0; i < countof(claims); i++) {
        scoped(buf_release) struct buf text = {0};
        assert_int_equal(buf_text(&text, claims[i].text), 0);
        progress_collapse(&text);
        if (strcmp((const char *)buf_string(&text), claims[i].wanted) != 0)
            fail_msg("%s: got %zu bytes", claims[i].claim, text.len);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_claims)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
