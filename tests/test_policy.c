/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What may be shared with a sandbox is decided before anything is built: a table of cases.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "sandbox/policy.h"
#include "wall/sandbox.h"

static int
read_policy(const char *const *options, size_t n, struct policy *ret, struct err *err)
{
    struct bytes parts[16];
    scoped(buf_release) struct buf buf = {0};
    struct frame f;

    for (size_t i = 0; i < n; i++)
        parts[i] = bytes_of(options[i]);
    assert_int_equal(frame_add(&buf, (struct frame){.number = SANDBOX_BUILD}, parts, n), 0);
    assert_true(frame_parse(buf.data, buf.len, sandbox_rules, SANDBOX_BY_KERNEL, SANDBOX_NEW, &f, err) > 0);
    return policy_read(&f, ret, err);
}

#define COMMON "id=t", "state=/s/husk/workspace", "home=/home/u", "hosthome=/home/u", "hide=/s/husk"

static void
directories_are_shared_only_if_nothing_else_can_be_meant(void **state)
{
    static const struct {
        const char *workdir, *why; /* why NULL: shared */
    } cases[] = {
        {"workdir=/home/u/notebooks", NULL},
        {"workdir=/srv/data/project", NULL},
        {"workdir=/tmp/x", NULL},
        {"workdir=/home/u", "home directory"},
        {"workdir=/home", "contains your home"},
        {"workdir=/", "contains your home"},
        {"workdir=/etc", "system"},
        {"workdir=/etc/husk", "belongs to the system"},
        {"workdir=/usr/share/x", "belongs to the system"},
        {"workdir=/proc/self", "belongs to the system"},
        {"workdir=/var", "directory of the system"},
        {"workdir=/tmp", "directory of the system"},
        {"workdir=/root", "directory of the system"},
        {"workdir=/s/husk", "stays hidden"},
        {"workdir=/s/husk/workspace/x", "stays hidden"},
        {"workdir=/s", "stays hidden"},
        {"workdir=/home/user", NULL}, /* another name that only begins like the home */
    };

    for (size_t i = 0; i < countof(cases); i++) {
        const char *options[] = {COMMON, cases[i].workdir};
        struct policy p = {0};
        struct err err;

        assert_int_equal(read_policy(options, countof(options), &p, &err), 0);
        if (p.private_workdir != (cases[i].why != NULL) ||
            (cases[i].why && !strstr(p.why_private, cases[i].why)))
            fail_msg("%s: private %d, '%s'", cases[i].workdir, p.private_workdir, p.why_private);
        policy_release(&p);
    }
}

static void
paths_that_would_show_the_home_are_left_out(void **state)
{
    const char *options[] = {COMMON,           "workdir=/w",       "path=/home/u",
                             "path=/",         "path=/home",       "path=/home/u/venv",
                             "path=/s/husk/x", "path=/opt/python", "path=/tmp",
                             "path=/proc/self", "path=/run/user", "path=/etc"};
    struct policy p = {0};
    struct err err;

    assert_int_equal(read_policy(options, countof(options), &p, &err), 0);
    assert_int_equal(p.paths.len, 2);
    assert_true(strv_has(&p.paths, "/home/u/venv"));
    assert_true(strv_has(&p.paths, "/opt/python"));
    policy_release(&p);
}

static void
bad_options_are_refused_with_the_reason(void **state)
{
    static const struct {
        const char *option, *reason;
    } cases[] = {
        {"workdir=relative", "not an absolute path"},
        {"workdir=/a/../b", "not an absolute path"},
        {"workdir=/a//b", "not an absolute path"},
        {"workdir=/a/", "not an absolute path"},
        {"workdir=/a/.", "not an absolute path"},
        {"memory=lots", "is no size"},
        {"memory=0", "is no size"},
        {"memory=-1", "is no size"},
        {"id=UPPER/../x", "is no name"},
        {"color=red", "there is no sandbox option"},
        {"profile=lax", "there is no profile"},
        {"profile=image", "needs an image"},
        {"image=/i", "needs profile image"},
        {"mount=/a", "is not SOURCE:TARGET:ro"},
        {"mount=/a:/b", "is not SOURCE:TARGET:ro"},
        {"mount=/a:/b:rx", "is not SOURCE:TARGET:ro"},
        {"mount=/a:/b:ro:ro", "is not SOURCE:TARGET:ro"},
        {"mount=a:/b:ro", "in its plain form"},
        {"mount=/a/../b:/b:ro", "in its plain form"},
        {"mount=/a:/b/:ro", "in its plain form"},
        {"mount=/home:/b:ro", "contains your home"},
        {"mount=/home/u:/b:ro", "is your home"},
        {"mount=/s/husk/workspace:/b:ro", "stays hidden"},
        {"mount=/s:/b:ro", "stays hidden"},
        {"mount=/sys/fs:/b:ro", "of the host"},
        {"mount=/var:/b:rw", "to be written"},
        {"mount=/a:/b:ro", NULL},
        {"mount=/home/u/x:/home/u/x:rw", NULL},
        {"mount=/a:/usr/b:ro", "the system stands there"},
        {"mount=/a:/:ro", "the system stands there"},
        {"mount=/a:/home:ro", "home directory stands there"},
        {"mount=/a:/w:ro", "working directory stands there"},
        {"mount=/a:/w/b:ro", NULL},
        {"workdir", "has no value"},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        const char *options[] = {COMMON, "workdir=/w", cases[i].option};
        struct policy p = {0};
        struct err err = {0};

        int r = read_policy(options, countof(options), &p, &err);
        if (cases[i].reason ? r == 0 || !strstr(err.text, cases[i].reason) : r < 0)
            fail_msg("%s: '%s' does not say '%s'", cases[i].option, err.text, cases[i].reason ? cases[i].reason : "nothing");
        policy_release(&p);
    }
}

static void
an_image_holds_nothing_of_the_host(void **state)
{
    static const struct {
        const char *image, *reason;
    } cases[] = {
        {"image=/srv/debian", NULL},
        {"image=/home/u/images/debian", NULL},
        {"image=/s/husk/images/sha256-0", NULL},
        {"image=/", "home directory"},
        {"image=/home", "contains your home"},
        {"image=/home/u", "is your home"},
        {"image=/usr", "of the system"},
        {"image=/usr/local/debian", "belongs to the system"},
        {"image=/proc/1/root", "belongs to the system"},
        {"image=/tmp", "of the system"},
        {"image=/s", "stays hidden"},
        {"image=/s/husk", "stays hidden"},
        {"image=/s/husk/images", "stays hidden"},
        {"image=/s/husk/sandboxes/x", "stays hidden"},
        {"image=/k", "connection file"},
        {"image=relative", "not an absolute path"},
        {"image=/a/../b", "not an absolute path"},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        const char *options[] = {COMMON, "workdir=/workspace", "layers=/s/husk/sandboxes", "mask=/k/c.json",
                                 "profile=image", cases[i].image};
        struct policy p = {0};
        struct err err = {0};

        int r = read_policy(options, countof(options), &p, &err);
        if (cases[i].reason ? r == 0 || !strstr(err.text, cases[i].reason) : r < 0)
            fail_msg("%s: '%s'", cases[i].image, err.text);
        policy_release(&p);
    }
}

static void
set_uid_files_are_for_sandboxes_that_share_nothing(void **state)
{
    static const struct {
        const char *option;
        int shares;
    } cases[] = {{"mount=/a:/b:ro", 0}, {"mount=/a:/b:rw", 1}};

    for (size_t i = 0; i < countof(cases); i++) {
        const char *options[] = {COMMON, "workdir=/workspace", "layers=/s/husk/sandboxes",
                                 "profile=image", "image=/i", cases[i].option};
        struct policy p = {0};
        struct err err = {0};

        assert_int_equal(read_policy(options, countof(options), &p, &err), 0);
        assert_int_equal(policy_shares(&p), cases[i].shares);
        assert_int_equal(policy_uid(&p), 0);
        policy_release(&p);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directories_are_shared_only_if_nothing_else_can_be_meant),
        cmocka_unit_test(paths_that_would_show_the_home_are_left_out),
        cmocka_unit_test(an_image_holds_nothing_of_the_host),
        cmocka_unit_test(set_uid_files_are_for_sandboxes_that_share_nothing),
        cmocka_unit_test(bad_options_are_refused_with_the_reason),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
