/* SPDX-License-Identifier: BSD-3-Clause
 *
 * mkfilter: writes filter.h, the two BPF programs of syscalls.def, when husk is built. So the
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
    must(seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "wrong ABI");
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
    scmp_filter_ctx calls = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    scmp_filter_ctx arguments = seccomp_init(SCMP_ACT_ALLOW);

    if (!calls || !arguments)
        must(-ENOMEM, "start");
#define MASK(arg, mask, value) SCMP_CMP(arg, SCMP_CMP_MASKED_EQ, mask, value)
#define OVER(arg, value) SCMP_CMP(arg, SCMP_CMP_GT, value, 0)
#define NOT(arg, value) SCMP_CMP(arg, SCMP_CMP_NE, value, 0)
#define BOTH(...) __VA_ARGS__
#define ALLOW(name) add(calls, SCMP_ACT_ALLOW, #name, 0, NULL);
#define REFUSE(name, code)                                                                     \
    if (code != ENOSYS)                                                                        \
        add(calls, SCMP_ACT_ERRNO(code), #name, 0, NULL);
#define WHEN(name, code, condition, reason)                                                    \
    {                                                                                          \
        struct scmp_arg_cmp cmp[] = {condition};                                               \
        add(arguments, SCMP_ACT_ERRNO(code), #name, sizeof cmp / sizeof cmp[0], cmp);          \
    }
#include "sandbox/syscalls.def"
    printf("/* Made by mkfilter from syscalls.def. One uint64_t is a struct sock_filter. */\n"
           "#include <stdint.h>\n");
    print(calls, "filter_calls");
    print(arguments, "filter_arguments");
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
