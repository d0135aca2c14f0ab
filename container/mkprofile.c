/* SPDX-License-Identifier: BSD-3-Clause
 *
 * mkprofile: writes seccomp.json, the profile of a container, from the rows of syscalls.def. It binds
 * husk-init and whoever comes in by `docker exec`; every other process has the filters of its own
 * inside (join.h), and of two filters the stricter one counts.
 *
 * A profile is one program with one verdict for each call: what refuses some arguments has to be
 * turned into rules that allow the others. A rule is a list of conditions that all hold, and Docker
 * takes two conditions on one argument for two rules, of which either will do. So conditions are
 * joined only where one for each argument says it all:
 *
 *     bits of one argument          none of all these bits is set
 *     NOT                           equal
 *     OVER, and single values       each value that is left, in a rule of its own
 *
 * What cannot be said so (two values of ioctl), and SETID, which an image may need, is left to the filter
 * inside.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

enum compare { BITS, GREATER, UNEQUAL };

struct condition {
    enum compare compare;
    unsigned argument;
    uint64_t mask, value; /* mask: BITS only */
};

struct refusal {
    const char *name;
    size_t n;
    struct condition condition[2]; /* refused if all hold */
};

static const char *const allowed[] = {
#define ALLOW(name) #name,
#define REFUSE(name, code)
#define WHEN(name, code, condition, reason)
#define SETID(name, code, condition, reason)
#define PRETEND(name)
#define PRETEND_WHEN(name, condition, reason)
#define ALONE(name, code, condition, reason)
#define ASK(name)
#include "sandbox/syscalls.def"
#undef ALLOW
#undef REFUSE
};

static const struct {
    const char *name;
    int code;
} refused[] = {
#define ALLOW(name)
#define REFUSE(name, code) {#name, code},
#include "sandbox/syscalls.def"
#undef REFUSE
#undef WHEN
#undef SETID
};

#define MASK(arg, mask, value) {BITS, arg, mask, value}
#define OVER(arg, value) {GREATER, arg, 0, value}
#define NOT(arg, value) {UNEQUAL, arg, 0, value}
#define BOTH(...) __VA_ARGS__
#define COUNT(...) (sizeof((struct condition[]){__VA_ARGS__}) / sizeof(struct condition))
static const struct refusal refusals[] = {
#define REFUSE(name, code)
#define WHEN(name, code, condition, reason) {#name, COUNT(condition), {condition}},
#define SETID(name, code, condition, reason)
#include "sandbox/syscalls.def"
};

static int rules; /* printed so far */

static void
begin_rule(void)
{
    printf("%s\n    {\"names\": [", rules++ ? "," : "");
}

static void
print_rule(const char *name, const char *conditions)
{
    begin_rule();
    printf("\"%s\"], \"action\": \"SCMP_ACT_ALLOW\"%s%s%s}", name, *conditions ? ", \"args\": [" : "", conditions,
           *conditions ? "]" : "");
}

static void
condition_text(char *into, size_t size, unsigned argument, const char *op, uint64_t value, uint64_t two)
{
    snprintf(into, size, "{\"index\": %u, \"op\": \"SCMP_CMP_%s\", \"value\": %llu, \"valueTwo\": %llu}", argument, op,
             (unsigned long long)value, (unsigned long long)two);
}

/* Bits of one argument: 1 if that is all. */
static int
print_bits(const char *name, const struct refusal *const *r, size_t n)
{
    char text[160];
    uint64_t mask = 0;

    for (size_t i = 0; i < n; i++) {
        const struct condition *c = &r[i]->condition[0];
        if (r[i]->n != 1 || c->compare != BITS || c->mask != c->value ||
            c->argument != r[0]->condition[0].argument)
            return 0;
        mask |= c->mask;
    }
    condition_text(text, sizeof text, r[0]->condition[0].argument, "MASKED_EQ", mask, 0);
    print_rule(name, text);
    return 1;
}

static int
print_equal(const char *name, const struct refusal *const *r, size_t n)
{
    const struct condition *c = &r[0]->condition[0];
    char text[160];

    if (n != 1 || r[0]->n != 1 || c->compare != UNEQUAL)
        return 0;
    condition_text(text, sizeof text, c->argument, "EQ", c->value, 0);
    print_rule(name, text);
    return 1;
}

/* Whether the value is refused: 1; if only together with another condition: 2, and which. */
static int
is_refused(const struct refusal *const *r, size_t n, unsigned argument, uint64_t value,
           const struct condition **other)
{
    int found = 0;

    for (size_t i = 0; i < n; i++) {
        const struct condition *c = &r[i]->condition[0];
        if (c->argument != argument || c->compare != BITS || (value & c->mask) != c->value)
            continue;
        if (r[i]->n == 1)
            return 1;
        *other = &r[i]->condition[1];
        found = 2;
    }
    return found;
}

static int
print_values(const char *name, const struct refusal *const *r, size_t n)
{
    const struct condition *over = NULL;

    for (size_t i = 0; i < n; i++)
        if (r[i]->n == 1 && r[i]->condition[0].compare == GREATER)
            over = &r[i]->condition[0];
    for (uint64_t v = 0; over && v <= over->value; v++) {
        const struct condition *other = NULL;
        char text[400], more[160];
        int how = is_refused(r, n, over->argument, v, &other);

        if (how == 1 || (how == 2 && other->compare != UNEQUAL))
            continue;
        condition_text(text, sizeof text, over->argument, "EQ", v, 0);
        if (how == 2) {
            condition_text(more, sizeof more, other->argument, "EQ", other->value, 0);
            snprintf(text + strlen(text), sizeof text - strlen(text), ", %s", more);
        }
        print_rule(name, text);
    }
    return over != NULL;
}

static void
print_allowed(const char *name)
{
    const struct refusal *mine[32];
    size_t n = 0;

    for (size_t i = 0; i < countof(refusals) && n < countof(mine); i++)
        if (strcmp(refusals[i].name, name) == 0)
            mine[n++] = &refusals[i];
    if (n == 0 || (!print_bits(name, mine, n) && !print_equal(name, mine, n) && !print_values(name, mine, n)))
        print_rule(name, "");
}

int
main(void)
{
    printf("{\n  \"defaultAction\": \"SCMP_ACT_ERRNO\",\n  \"defaultErrnoRet\": %d,\n  \"architectures\": [\"%s\"],\n"
           "  \"syscalls\": [", ENOSYS,
#if defined __x86_64__
           "SCMP_ARCH_X86_64"
#elif defined __aarch64__
           "SCMP_ARCH_AARCH64"
#elif defined __riscv
           "SCMP_ARCH_RISCV64"
#else
#error "name this architecture for libseccomp"
#endif
    );
    for (size_t i = 0; i < countof(allowed); i++)
        print_allowed(allowed[i]);
    for (size_t i = 0; i < countof(refused); i++) {
        begin_rule();
        printf("\"%s\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": %d}", refused[i].name, refused[i].code);
    }
    puts("\n  ]\n}");
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
