/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_names.c: what is answered from an account of names, honest or not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/json.h"
#include "kernel/names.h"

#define ACCOUNT                                                                            \
    "{\"names\":{\"os\":[\"module\",\"1\",\"module\"],\"osmosis\":[\"instance\",\"\",\"int\"],"          \
    "\"_hidden\":[\"instance\",\"\",\"int\"],\"gr\\u00fc\\u00dfe\":[\"function\",\"3\",\"function\"],"    \
    "\"print\":[\"function\",\"\",\"builtin_function_or_method\"]},"                               \
    "\"members\":{\"1\":{\"path\":\"module\",\"pardir\":\"instance\",\"_x\":\"instance\"}},"           \
    "\"docs\":{\"1\":\"OS \\\"routines\\\"\",\"3\":\"hello\"}}"

struct claim {
    const char *claim, *names, *content, *wanted;
};

#define FOUND(matches, start, end, types)                                                  \
    "{\"status\":\"ok\",\"matches\":[" matches "],\"cursor_start\":" start ",\"cursor_end\":" end      \
    ",\"metadata\":{\"_jupyter_types_experimental\":[" types "],\"husk\":{}}}"
#define ITEM(start, end, text, type)                                                       \
    "{\"start\":" start ",\"end\":" end ",\"text\":" text ",\"type\":\"" type "\",\"signature\":\"\"}"

static const struct claim completions[] = {
    {"a name", ACCOUNT, "{\"code\":\"pri\"}", FOUND("\"print\"", "0", "3", ITEM("0", "3", "\"print\"", "function"))},
    {"two names", ACCOUNT, "{\"code\":\"x = os\",\"cursor_pos\":6}",
     FOUND("\"os\",\"osmosis\"", "4", "6", ITEM("4", "6", "\"os\"", "module") "," ITEM("4", "6", "\"osmosis\"", "instance"))},
    {"a member", ACCOUNT, "{\"code\":\"os.pat\"}", FOUND("\"path\"", "3", "6", ITEM("3", "6", "\"path\"", "module"))},
    {"hidden members are not offered unasked", ACCOUNT, "{\"code\":\"os.\"}",
     FOUND("\"path\",\"pardir\"", "3", "3", ITEM("3", "3", "\"path\"", "module") "," ITEM("3", "3", "\"pardir\"", "instance"))},
    {"and are when asked for", ACCOUNT, "{\"code\":\"os._\"}", FOUND("\"_x\"", "3", "4", ITEM("3", "4", "\"_x\"", "instance"))},
    {"the cursor counts code points", ACCOUNT, "{\"code\":\"\\ud83d\\ude00;gr\\u00fc; y\",\"cursor_pos\":5}",
     FOUND("\"gr\\u00fc\\u00dfe\"", "2", "5", ITEM("2", "5", "\"gr\\u00fc\\u00dfe\"", "function"))},
    {"a cursor in the middle", ACCOUNT, "{\"code\":\"os.path\",\"cursor_pos\":5}",
     FOUND("\"path\",\"pardir\"", "3", "5", ITEM("3", "5", "\"path\"", "module") "," ITEM("3", "5", "\"pardir\"", "instance"))},
    {"nothing is known of members of members", ACCOUNT, "{\"code\":\"os.path.pa\"}", FOUND("", "10", "10", "")},
    {"nor of calls", ACCOUNT, "{\"code\":\"f().pa\"}", FOUND("", "6", "6", "")},
    {"nor of other names", ACCOUNT, "{\"code\":\"sys.pa\"}", FOUND("", "6", "6", "")},
    {"never told", "", "{\"code\":\"os.pa\"}", FOUND("", "5", "5", "")},
    {"an account of another form", "{\"names\":[1],\"members\":2}", "{\"code\":\"os\"}", FOUND("", "2", "2", "")},
    {"entries of another form", "{\"names\":{\"os\":[],\"ox\":[1,2,3],\"on\":{},\"ob\":null}}", "{\"code\":\"o\"}",
     FOUND("", "1", "1", "")},
    {"a key that leads nowhere", "{\"names\":{\"os\":[\"module\",\"9\",\"module\"]},\"members\":{}}", "{\"code\":\"os.\"}",
     FOUND("", "3", "3", "")},
    {"no code", ACCOUNT, "{\"code\":\"\",\"cursor_pos\":0}",
     FOUND("\"os\",\"osmosis\",\"gr\\u00fc\\u00dfe\",\"print\"", "0", "0", ITEM("0", "0", "\"os\"", "module") ","
           ITEM("0", "0", "\"osmosis\"", "instance") "," ITEM("0", "0", "\"gr\\u00fc\\u00dfe\"", "function") ","
           ITEM("0", "0", "\"print\"", "function"))},
};

#define SHOWN(text) "{\"status\":\"ok\",\"found\":true,\"data\":{\"text/plain\":\"" text "\"},\"metadata\":{\"husk\":{}}}"
#define NOT_FOUND "{\"status\":\"ok\",\"found\":false,\"data\":{},\"metadata\":{\"husk\":{}}}"

static const struct claim inspections[] = {
    {"a name", ACCOUNT, "{\"code\":\"os\",\"cursor_pos\":2}", SHOWN("Type:      module\\nDocstring: OS \\\"routines\\\"")},
    {"the cursor within it", ACCOUNT, "{\"code\":\"osmosis\",\"cursor_pos\":1}", SHOWN("Type:      int")},
    {"a member", ACCOUNT, "{\"code\":\"os.path\",\"cursor_pos\":4}", SHOWN("Type:      module")},
    {"no such name", ACCOUNT, "{\"code\":\"ox\",\"cursor_pos\":2}", NOT_FOUND},
    {"no name", ACCOUNT, "{\"code\":\"\",\"cursor_pos\":0}", NOT_FOUND},
    {"never told", "", "{\"code\":\"os\",\"cursor_pos\":2}", NOT_FOUND},
};

static void
expect(const struct claim *c, int (*answer)(struct bytes, struct bytes, const char *, struct buf *))
{
    scoped(buf_release) struct buf found = {0};
    struct err err;

    assert_int_equal(answer(bytes_of(c->names), bytes_of(c->content), "{}", &found), 0);
    if (strcmp((const char *)buf_string(&found), c->wanted) != 0)
        fail_msg("%s: %s, not %s", c->claim, (const char *)buf_string(&found), c->wanted);
    assert_int_equal(json_check_object((struct bytes){found.data, found.len}, &err), 0);
}

static void
test_completions(void **state)
{
    for (size_t i = 0; i < countof(completions); i++)
        expect(&completions[i], names_complete);
}

static void
test_inspections(void **state)
{
    for (size_t i = 0; i < countof(inspections); i++)
        expect(&inspections[i], names_inspect);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_inspections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
