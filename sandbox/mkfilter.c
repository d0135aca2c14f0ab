/* SPDX-License-Identifier: BSD-3-Clause
 *
 * mkfilter: writes filter.h, the BPF programs of syscalls.def, when husk is built. So the
 * programs at run time need no libseccomp and no time to compile a filter.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void
must(int r, const char *what)
{
    if (r < 0) {
        fprintf(stderr, "mkfilter: %s: errno %d\n", what, -r);
        exit(1);
    }
}

/* A call that this libseccomp or this machine does not have keeps the answer ENOSYS. */
static void
add(scmp_filter_ctx ctx, uint32_t action, const char *name, unsigned n, struct scmp_arg_cmp *cmp)
{
    int number = seccomp_syscall_resolve_name(name);

    if (number == __NR_SCMP_ERROR || number < 0)
        return;
    must(seccomp_rule_add_array(ctx, action, number, n, cmp), name);
}

static void
print(scmp_filter_ctx ctx, const char *name)
{
    int fd = memfd_create("filter", 0);
    off_t len;
    uint64_t *insn;

    must(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimize");
    must(seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRAP), "wrong ABI");
    must(seccomp_export_bpf(ctx, fd), "export");
    len = lseek(fd, 0, SEEK_END);
    insn = malloc((size_t)len);
    if (!insn || pread(fd, insn, (size_t)len, 0) != len)
        must(-EIO, "read back");
    printf("static const uint64_t %s[] = {\n", name);
    for (off_t i = 0; i < len / 8; i++)
        printf("0x%016llx,%s", (unsigned long long)insn[i], i % 4 == 3 ? "\n" : " ");
    printf("\n};\n");
    free(insn);
    close(fd);
    seccomp_release(ctx);
}

int
main(void)
{
    /* Of the system that husk is built for, whatever the one that builds can do. */
    int level = seccomp_api_set(5);
    scmp_filter_ctx calls = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    scmp_filter_ctx arguments = seccomp_init(SCMP_ACT_ALLOW);
    scmp_filter_ctx unshared = seccomp_init(SCMP_ACT_ALLOW); /* arguments without SETID */
    scmp_filter_ctx pretend = seccomp_init(SCMP_ACT_ALLOW);
    scmp_filter_ctx alone = seccomp_init(SCMP_ACT_ALLOW); /* arguments, and ALONE */
    scmp_filter_ctx ask = seccomp_init(SCMP_ACT_ALLOW);

    if (!calls || !arguments || !unshared || !pretend || !alone || !ask)
        must(-ENOMEM, "start");
    must(level, "know of listeners");
#define MASK(arg, mask, value) SCMP_CMP(arg, SCMP_CMP_MASKED_EQ, mask, value)
#define OVER(arg, value) SCMP_CMP(arg, SCMP_CMP_GT, value, 0)
#define NOT(arg, value) SCMP_CMP(arg, SCMP_CMP_NE, value, 0)
#define BOTH(...) __VA_ARGS__
#define ALLOW(name) add(calls, SCMP_ACT_ALLOW, #name, 0, NULL);
#define REFUSE(name, code)                                                                     \
    if (code != ENOSYS)                                                                        \
        add(calls, SCMP_ACT_ERRNO(code), #name, 0, NULL);
#define IF(program, name, code, condition)                                                     \
    {                                                                                          \
        struct scmp_arg_cmp cmp[] = {condition};                                               \
        add(program, SCMP_ACT_ERRNO(code), #name, sizeof cmp / sizeof cmp[0], cmp);            \
    }
#define WHEN(name, code, condition, reason)                                                    \
    SETID(name, code, BOTH(condition), reason) IF(unshared, name, code, BOTH(condition))
#define SETID(name, code, condition, reason)                                                   \
    IF(arguments, name, code, BOTH(condition)) IF(alone, name, code, BOTH(condition))
#define ALONE(name, code, condition, reason) IF(alone, name, code, BOTH(condition))
#define ASK(name) add(ask, SCMP_ACT_NOTIFY, #name, 0, NULL);
#define PRETEND(name) add(pretend, SCMP_ACT_ERRNO(0), #name, 0, NULL);
#define PRETEND_WHEN(name, condition, reason) IF(pretend, name, 0, BOTH(condition))
#include "sandbox/syscalls.def"
    printf("/* Made by mkfilter from syscalls.def. One uint64_t is a struct sock_filter. */\n"
           "#include <stdint.h>\n");
    print(calls, "filter_calls");
    print(arguments, "filter_arguments");
    print(unshared, "filter_arguments_unshared");
    print(pretend, "filter_pretend");
    print(alone, "filter_alone");
    print(ask, "filter_ask");
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
