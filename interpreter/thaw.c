/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-thaw: becomes the interpreter that a frozen one was (wall/frozen.h). Executed by husk-init in place of
 * Python, confined as that would be. No libc: that would have state of its own (thread, vdso, rseq) where
 * that of the frozen one belongs. It allocates nothing, lies at an address where no program is, and maps
 * nothing over anything: what is in the way ends it, and the supervisor starts cold.
 */
#include <asm/unistd.h>
#include <elf.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "wall/frozen.h"
#include "wall/interp.h"

#define ARCH_SET_FS 0x1002 /* asm/prctl.h */
#define PAGE 4096
#define FAILED 126 /* exit status */

static long
call(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

static void __attribute__((noreturn))
give_up(const char *why)
{
    long len = 0;

    while (why[len])
        len++;
    call(__NR_write, 2, (long)why, len, 0, 0, 0);
    for (;;)
        call(__NR_exit_group, FAILED, 0, 0, 0, 0, 0);
}

/* The compiler may ask for these. */
void *memset(void *at, int value, size_t n);
void *
memset(void *at, int value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((volatile char *)at)[i] = (char)value;
    return at;
}

/* The file comes with the first byte of the socket. */
static int
receive_file(void)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c;

    if (call(__NR_recvmsg, INTERP_FD_SOCKET, (long)&m, 0, 0, 0, 0) != 1)
        give_up("husk-thaw: no frozen interpreter came\n");
    c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        give_up("husk-thaw: no frozen interpreter came\n");
    return *(int *)CMSG_DATA(c);
}

static union {
    struct frozen_head head;
    char bytes[FROZEN_TABLES];
} file;

static long
read_to(int fd, long got, long end)
{
    long n;

    while (got < end && (n = call(__NR_pread64, fd, (long)file.bytes + got, end - got, got, 0, 0)) > 0)
        got += n;
    return got;
}

/* No more than there is: each page of the room for it costs as much as one of the interpreter. */
static void
read_tables(int fd)
{
    const struct frozen_head *h = &file.head;
    uint64_t end;

    if (read_to(fd, 0, sizeof *h) < (long)sizeof *h || h->magic != FROZEN_MAGIC || h->regions > FROZEN_REGIONS ||
        h->patches > FROZEN_PATCHES || h->names > FROZEN_TABLES)
        give_up("husk-thaw: the frozen interpreter is damaged\n");
    end = sizeof *h + h->regions * sizeof(struct frozen_region) + h->patches * sizeof(uint64_t) + h->names;
    if (end > sizeof file || read_to(fd, sizeof *h, (long)end) < (long)end)
        give_up("husk-thaw: the frozen interpreter is damaged\n");
}

static const struct frozen_region *
regions(void)
{
    return (const struct frozen_region *)(file.bytes + sizeof file.head);
}

static const uint64_t *
patches(void)
{
    return (const uint64_t *)(regions() + file.head.regions);
}

static const char *
name_of(const struct frozen_region *r)
{
    const char *names = (const char *)(patches() + file.head.patches);

    if (r->name >= file.head.names || names[file.head.names - 1] != 0)
        give_up("husk-thaw: the frozen interpreter is damaged\n");
    return names + r->name;
}

static int
open_same(const struct frozen_region *r)
{
    struct stat st;
    int fd = (int)call(__NR_open, (long)name_of(r), O_RDONLY | O_CLOEXEC, 0, 0, 0, 0);

    if (fd < 0 || call(__NR_fstat, fd, (long)&st, 0, 0, 0, 0) < 0 || st.st_ino != r->inode ||
        (uint64_t)st.st_size != r->length ||
        (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec != r->modified)
        give_up("husk-thaw: a library is not the one that it was\n");
    return fd;
}

/* Libraries follow one another in the table: each is opened once. */
static void
map_all(int image)
{
    const struct frozen_region *r = regions(), *opened = NULL;
    int other = -1;

    for (uint32_t i = 0; i < file.head.regions; i++, r++) {
        int flags = MAP_FIXED_NOREPLACE | (r->shared ? MAP_SHARED : MAP_PRIVATE);
        int fd = -1, prot = (int)r->prot;
        long at;

        if (r->kind == FROZEN_FILE && (!opened || opened->name != r->name)) {
            if (other >= 0)
                call(__NR_close, other, 0, 0, 0, 0, 0);
            other = open_same(r);
            opened = r;
        }
        if (r->kind == FROZEN_FILE)
            fd = other;
        else if (r->kind == FROZEN_DATA)
            fd = image;
        else
            flags |= MAP_ANONYMOUS | (r->kind == FROZEN_STACK_BELOW ? MAP_GROWSDOWN | MAP_STACK : 0);
        if (r->kind == FROZEN_DATA)
            prot |= PROT_WRITE; /* for the patches */
        at = call(__NR_mmap, (long)r->start, (long)r->size, prot, flags, fd, (long)r->at);
        if (at != (long)r->start)
            give_up("husk-thaw: something is where the interpreter was\n");
    }
    if (other >= 0)
        call(__NR_close, other, 0, 0, 0, 0, 0);
}

/* The kernel puts its code for clocks where it likes. */
static void
patch(uint64_t vdso)
{
    const struct frozen_region *r = regions();

    for (uint32_t i = 0; i < file.head.patches; i++)
        *(uint64_t *)patches()[i] += vdso - file.head.vdso;
    for (uint32_t i = 0; i < file.head.regions; i++, r++)
        if (r->kind == FROZEN_DATA && !(r->prot & PROT_WRITE))
            call(__NR_mprotect, (long)r->start, (long)r->size, (long)r->prot, 0, 0, 0);
}

extern char __executable_start[], _end[];

static void __attribute__((noreturn))
go_on(void)
{
    const uint64_t *r = file.head.registers;

    call(__NR_arch_prctl, ARCH_SET_FS, (long)file.head.thread, 0, 0, 0, 0);
    __asm__ volatile("mov 8(%0), %%rsp\n\t"
                     "mov 16(%0), %%rbp\n\t"
                     "mov 24(%0), %%rbx\n\t"
                     "mov 32(%0), %%r12\n\t"
                     "mov 40(%0), %%r13\n\t"
                     "mov 48(%0), %%r14\n\t"
                     "mov 56(%0), %%r15\n\t"
                     "mov 0(%0), %%rcx\n\t"
                     "mov $1, %%eax\n\t"
                     "jmp *%%rcx"
                     :
                     : "d"(r)
                     : "memory");
    __builtin_unreachable();
}

void thaw(uint64_t *stack);
void
thaw(uint64_t *stack)
{
    uint64_t argc = stack[0], *environment = stack + 1 + argc + 1, *at = environment, vdso = 0;
    struct frozen_told *told;
    int fd = receive_file();
    long image;

    while (*at++)
        ;
    for (; *at != AT_NULL; at += 2)
        if (*at == AT_SYSINFO_EHDR)
            vdso = at[1];
    read_tables(fd);
    map_all(fd);
    image = call(__NR_mmap, 0, (long)file.head.size, PROT_READ, MAP_PRIVATE, fd, 0);
    call(__NR_close, fd, 0, 0, 0, 0, 0);
    patch(vdso);
    told = (struct frozen_told *)file.head.told;
    told->environment = (uint64_t)environment;
    told->arguments = argc;
    told->image = image > 0 ? (uint64_t)image : 0;
    told->start = (uint64_t)__executable_start & ~(uint64_t)(PAGE - 1);
    told->end = ((uint64_t)_end + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    go_on();
}

__asm__(".globl _start\n"
        "_start:\n\t"
        "xor %ebp, %ebp\n\t"
        "mov %rsp, %rdi\n\t"
        "and $-16, %rsp\n\t"
        "call thaw\n\t"
        "hlt\n");
