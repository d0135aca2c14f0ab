/* SPDX-License-Identifier: BSD-3-Clause */
#include "interpreter/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "wall/frozen.h"

#if defined(__x86_64__) && defined(__GLIBC__)

#define PAGE 4096ull
#define TEXT (1u << 20)    /* bytes of /proc/self/maps */
#define CANDIDATES 16      /* words of a thread's storage that look like its number */
#define THREAD_WORDS 1024  /* so many are looked at: struct pthread of any glibc is smaller */
#define RED_ZONE 128       /* bytes below the stack pointer that belong to a function (x86-64 psABI) */
#define RSEQ_SIGNATURE 0x53053053

/* Nothing of it is on the heap, which is being written down meanwhile. */
struct plan {
    char text[TEXT];
    struct frozen_region region[FROZEN_REGIONS];
    uint64_t patch[FROZEN_PATCHES];
    char names[TEXT];
    uint64_t pagemap[512];
    struct frozen_head head;
};

static uint64_t registers[FROZEN_REGISTERS];
static struct frozen_told told;
static size_t candidate[CANDIDATES], candidates; /* offsets in the thread's storage */
static struct sigaction actions[NSIG];
static stack_t alternate;
static char title[16]; /* of the process, as ps shows it */
static struct {
    void *head;
    size_t size;
} robust;

/* As setjmp, and what it saves lies where husk-thaw finds it. 0; 1 in a thawed process. */
int freeze_save(uint64_t *into) __attribute__((returns_twice));
__asm__(".text\n.globl freeze_save\n.hidden freeze_save\n.type freeze_save, @function\n"
        "freeze_save:\n\t"
        "mov (%rsp), %rax\n\tmov %rax, (%rdi)\n\t"
        "lea 8(%rsp), %rax\n\tmov %rax, 8(%rdi)\n\t"
        "mov %rbp, 16(%rdi)\n\tmov %rbx, 24(%rdi)\n\t"
        "mov %r12, 32(%rdi)\n\tmov %r13, 40(%rdi)\n\t"
        "mov %r14, 48(%rdi)\n\tmov %r15, 56(%rdi)\n\t"
        "xor %eax, %eax\n\tret\n");

static uint64_t
thread_storage(void)
{
    uint64_t base;

    __asm__("mov %%fs:0, %0" : "=r"(base));
    return base;
}

/*** Where the C library keeps the number of a thread ***/

void
freeze_prepare(void)
{
    const uint32_t *words = (const uint32_t *)thread_storage();
    uint32_t self = (uint32_t)syscall(SYS_gettid);

    candidates = 0;
    for (size_t i = 0; i < THREAD_WORDS && candidates < CANDIDATES; i++)
        if (words[i] == self)
            candidate[candidates++] = i;
}

/* In the child only one word has changed with the number. */
static int
find_number(struct err *err)
{
    const uint32_t *words = (const uint32_t *)thread_storage();
    uint32_t self = (uint32_t)syscall(SYS_gettid);
    size_t n = 0;

    for (size_t i = 0; i < candidates; i++)
        if (words[candidate[i]] == self)
            candidate[n++] = candidate[i];
    candidates = n;
    return n == 1 ? 0 : err_set(err, ENOTSUP, "the C library keeps the number of a thread in %zu places", n);
}

/*** What is there ***/

static struct plan *plan;

static int
read_maps(struct err *err)
{
    scoped(fd_close) int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n;

    if (fd < 0)
        return err_errno(err, "open '/proc/self/maps'");
    while ((n = read(fd, plan->text + len, TEXT - 1 - len)) > 0)
        len += (size_t)n;
    plan->text[len] = 0;
    return n < 0 || len == TEXT - 1 ? err_set(err, E2BIG, "too many mappings") : 0;
}

/* Whether a page of the range was written to: it is then none of the file's any more. */
static int
was_written(int pagemap, uint64_t start, uint64_t end)
{
    while (start < end) {
        size_t want = (end - start) / PAGE < countof(plan->pagemap) ? (end - start) / PAGE : countof(plan->pagemap);
        ssize_t n = pread(pagemap, plan->pagemap, want * 8, (off_t)(start / PAGE * 8));

        if (n <= 0)
            return 1; /* cannot be said */
        for (ssize_t i = 0; i < n / 8; i++) { /* bits 63 present, 62 swapped, 61 of a file: pagemap.rst */
            uint64_t bits = plan->pagemap[i] >> 61;
            if ((bits & 6) && !(bits & 1))
                return 1;
        }
        start += (uint64_t)n / 8 * PAGE;
    }
    return 0;
}

static struct frozen_region *
add_region(uint64_t start, uint64_t end, enum frozen_kind kind, uint32_t prot, struct err *err)
{
    struct frozen_region *r;

    if (start == end)
        return &plan->region[plan->head.regions];
    if (plan->head.regions == FROZEN_REGIONS) {
        err_set(err, E2BIG, "more than %d mappings", FROZEN_REGIONS);
        return NULL;
    }
    r = &plan->region[plan->head.regions++];
    *r = (struct frozen_region){.start = start, .size = end - start, .kind = kind, .prot = prot};
    return r;
}

static int
add_file(uint64_t start, uint64_t end, uint32_t prot, int shared, uint64_t at, const char *name, struct err *err)
{
    struct frozen_region *r = add_region(start, end, FROZEN_FILE, prot, err);
    const struct frozen_region *before = r - 1;
    size_t len = strlen(name) + 1;
    struct stat st;

    if (!r)
        return -1;
    if (stat(name, &st) < 0)
        return err_errno(err, "look at '%s'", name);
    r->at = at;
    r->shared = (uint32_t)shared;
    r->inode = st.st_ino;
    r->length = (uint64_t)st.st_size;
    r->modified = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
    if (plan->head.regions > 1 && before->kind == FROZEN_FILE &&
        strcmp(plan->names + before->name, name) == 0) {
        r->name = before->name;
        return 0;
    }
    if (plan->head.names + len > sizeof plan->names)
        return err_set(err, E2BIG, "too many libraries");
    r->name = plan->head.names;
    memcpy(plan->names + r->name, name, len);
    plan->head.names += (uint32_t)len;
    return 0;
}

/* One line of /proc/self/maps. */
struct mapping {
    uint64_t start, end, at, inode;
    uint32_t prot;
    int shared;
    const char *name; /* "": anonymous */
};

static int
parse_mapping(const char *line, struct mapping *m)
{
    unsigned long long start, end, at, inode;
    char bits[5];
    int used = 0;

    if (sscanf(line, "%llx-%llx %4s %llx %*s %llu %n", &start, &end, bits, &at, &inode, &used) < 5)
        return -1;
    *m = (struct mapping){.start = start, .end = end, .at = at, .inode = inode, .shared = bits[3] == 's',
                          .name = line + used};
    m->prot = (bits[0] == 'r' ? PROT_READ : 0u) | (bits[1] == 'w' ? PROT_WRITE : 0u) |
              (bits[2] == 'x' ? PROT_EXEC : 0u);
    return 0;
}

static int
plan_stack(const struct mapping *m, struct err *err)
{
    uint64_t used = (registers[1] - RED_ZONE) & ~(PAGE - 1), below = used - FROZEN_STACK;

    return add_region(below, used, FROZEN_STACK_BELOW, m->prot, err) &&
                   add_region(used, m->end, FROZEN_DATA, m->prot, err)
               ? 0
               : -1;
}

static int
plan_mapping(const struct mapping *m, int pagemap, struct err *err)
{
    int file = *m->name == '/';

    if (m->start == (uint64_t)(uintptr_t)plan || strcmp(m->name, "[vsyscall]") == 0 ||
        strncmp(m->name, "[vvar", 5) == 0)
        return 0;
    if (strcmp(m->name, "[vdso]") == 0) {
        plan->head.vdso = m->start;
        plan->head.vdso_size = m->end - m->start;
        return 0;
    }
    if (strcmp(m->name, "[stack]") == 0)
        return plan_stack(m, err);
    if (m->shared && (!file || (m->prot & PROT_WRITE)))
        return err_set(err, ENOTSUP, "memory is shared with others ('%s')", m->name);
    if (file && !was_written(pagemap, m->start, m->end))
        return add_file(m->start, m->end, m->prot, m->shared, m->at, m->name, err);
    if (!file && !was_written(pagemap, m->start, m->end))
        return add_region(m->start, m->end, FROZEN_ZERO, m->prot, err) ? 0 : -1;
    if ((m->prot & PROT_EXEC) && !file)
        return err_set(err, ENOTSUP, "code was made while it ran (%llx)", (unsigned long long)m->start);
    if (!(m->prot & PROT_READ))
        return err_set(err, ENOTSUP, "memory that was written to cannot be read");
    return add_region(m->start, m->end, FROZEN_DATA, m->prot, err) ? 0 : -1;
}

static int
plan_all(struct err *err)
{
    scoped(fd_close) int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    char *rest = plan->text, *line;
    struct mapping m;

    if (pagemap < 0)
        return err_errno(err, "open '/proc/self/pagemap'");
    while ((line = strsep(&rest, "\n")))
        if (*line && (parse_mapping(line, &m) < 0 || plan_mapping(&m, pagemap, err) < 0))
            return err->code ? -1 : err_set(err, EINVAL, "a line of '/proc/self/maps' is none: %s", line);
    return 0;
}

/* The words that point into the kernel's code for clocks, which lies elsewhere in each process. */
static int
find_patches(struct err *err)
{
    for (uint32_t i = 0; i < plan->head.regions; i++) {
        const struct frozen_region *r = &plan->region[i];
        if (r->kind != FROZEN_DATA)
            continue;
        for (uint64_t at = r->start; at < r->start + r->size; at += 8) {
            if (*(uint64_t *)at - plan->head.vdso >= plan->head.vdso_size)
                continue;
            if (plan->head.patches == FROZEN_PATCHES)
                return err_set(err, E2BIG, "too many pointers into the vdso");
            plan->patch[plan->head.patches++] = at;
        }
    }
    return 0;
}

/*** Writing ***/

static void
lay_out(void)
{
    struct frozen_head *h = &plan->head;
    uint64_t at = sizeof *h + h->regions * sizeof *plan->region + h->patches * sizeof *plan->patch + h->names;

    h->contents = at = (at + PAGE - 1) & ~(PAGE - 1);
    for (uint32_t i = 0; i < h->regions; i++)
        if (plan->region[i].kind == FROZEN_DATA) {
            plan->region[i].at = at;
            at += plan->region[i].size;
        }
    h->size = at;
    h->magic = FROZEN_MAGIC;
    memcpy(h->registers, registers, sizeof h->registers);
    h->thread = thread_storage();
    h->told = (uint64_t)(uintptr_t)&told;
}

static int
write_all(int fd, struct err *err)
{
    const struct frozen_head *h = &plan->head;
    static const char nothing[PAGE];
    size_t tables = h->regions * sizeof *plan->region + h->patches * sizeof *plan->patch + h->names + sizeof *h;
    int bad = tables > FROZEN_TABLES ? err_set(err, E2BIG, "too many mappings") : 0;

    bad = bad || fd_write_all(fd, h, sizeof *h) < 0 ||
          fd_write_all(fd, plan->region, h->regions * sizeof *plan->region) < 0 ||
          fd_write_all(fd, plan->patch, h->patches * sizeof *plan->patch) < 0 ||
          fd_write_all(fd, plan->names, h->names) < 0 || fd_write_all(fd, nothing, h->contents - tables) < 0;
    for (uint32_t i = 0; !bad && i < h->regions; i++)
        if (plan->region[i].kind == FROZEN_DATA)
            bad = fd_write_all(fd, (void *)plan->region[i].start, plan->region[i].size) < 0;
    if (bad && !err->code)
        return err_errno(err, "write the frozen interpreter");
    return bad ? -1 : 0;
}

/*** Going on ***/

static void
remember(void)
{
    for (int s = 1; s < NSIG; s++)
        (void)sigaction(s, NULL, &actions[s]);
    (void)sigaltstack(NULL, &alternate);
    (void)prctl(PR_GET_NAME, title, 0, 0, 0);
    (void)syscall(SYS_get_robust_list, 0, &robust.head, &robust.size);
}

/* Symbols of glibc 2.35 and newer; without them nothing was registered. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned __rseq_size __attribute__((weak));

static void
register_rseq(void)
{
    uint32_t *area;

    if (!&__rseq_offset || !&__rseq_size || !__rseq_size)
        return;
    area = (uint32_t *)(thread_storage() + (uint64_t)__rseq_offset);
    area[0] = 0;             /* cpu_id_start */
    area[1] = (uint32_t)-1;  /* cpu_id: not there yet */
    area[2] = area[3] = 0;   /* rseq_cs */
    area[4] = 0;
    if (syscall(SYS_rseq, area, __rseq_size < 32 ? 32 : __rseq_size, 0, RSEQ_SIGNATURE) < 0)
        area[1] = (uint32_t)-2; /* not to be had: the C library asks the kernel, then */
}

/* Where the C library believes that the data segment ends. */
extern void *__curbrk __attribute__((weak));
#define NO_BREAK ((void *)0x7fff00000000) /* beyond all that brk(2) gives */

/* The data segment of this process is husk-thaw's, far from the heap that was written down. For what it is asked
 * the kernel answers with its own end of it: below the heap the C library takes that for a refusal, and maps memory
 * instead; above (a Python at fixed low addresses, as Debian's) for success, and writes where nothing is. And
 * a heap that ends where it believes the segment to end is trimmed by the difference. With an end that is
 * none the first request is refused, and the heap is one that need not be in one piece from then on. */
static void
forget_break(void)
{
    __curbrk = NO_BREAK;
}

/* What the kernel keeps of a process, and the C library of a thread. */
static void
come_back(void)
{
    uint32_t *words = (uint32_t *)thread_storage();

    words[candidate[0]] = (uint32_t)syscall(SYS_set_tid_address, &words[candidate[0]]);
    if (robust.head)
        (void)syscall(SYS_set_robust_list, robust.head, robust.size);
    register_rseq();
    forget_break();
    environ = (char **)told.environment;
    (void)prctl(PR_SET_NAME, title, 0, 0, 0);
    for (int s = 1; s < NSIG; s++)
        (void)sigaction(s, &actions[s], NULL);
    if (!(alternate.ss_flags & SS_DISABLE))
        (void)sigaltstack(&alternate, NULL);
    munmap((void *)told.start, told.end - told.start);
}

int
freeze_arguments(void)
{
    return (int)told.arguments;
}

/*** Resting ***/

/* Nothing may write between the look at a page and its return: no other thread, which would be another stack; no
 * signal; and not the kernel, whose own words (rseq, the thread's number) are around the thread's storage. */
struct rest {
    char text[TEXT];
    uint64_t pagemap[512];
    size_t given;
};

static int
has_one_thread(void)
{
    struct stat st;

    return stat("/proc/self/task", &st) == 0 && st.st_nlink == 3; /* ., .. and one */
}

static int
is_written_by_others(uint64_t page)
{
    uint64_t thread = thread_storage(), here = (uint64_t)(uintptr_t)__builtin_frame_address(0);

    return (page + PAGE > thread - 2 * PAGE && page < thread + 2 * PAGE) ||
           (page + PAGE > here - FROZEN_STACK && page < here + FROZEN_STACK);
}

static int
is_as_in_file(uint64_t bits, uint64_t page, uint64_t at)
{
    bits >>= 61; /* as in was_written() */
    return (bits & 4) && !(bits & 1) && !is_written_by_others(page) &&
           memcmp((void *)page, (void *)(told.image + at), PAGE) == 0;
}

static void
give_back(struct rest *rest, const struct mapping *m, int pagemap)
{
    for (uint64_t at = m->start; at < m->end;) {
        size_t want = (m->end - at) / PAGE < countof(rest->pagemap) ? (m->end - at) / PAGE : countof(rest->pagemap);
        ssize_t n = pread(pagemap, rest->pagemap, want * 8, (off_t)(at / PAGE * 8));

        if (n < 8)
            return;
        for (size_t i = 0; i < (size_t)n / 8; i++, at += PAGE)
            if (is_as_in_file(rest->pagemap[i], at, m->at + (at - m->start)) &&
                madvise((void *)at, PAGE, MADV_DONTNEED) == 0)
                rest->given += PAGE;
    }
}

static int
is_of_same_file(const struct mapping *m, const struct mapping *image)
{
    return m->start != image->start && m->inode == image->inode && strcmp(m->name, image->name) == 0 && !m->shared &&
           (m->prot & PROT_READ);
}

/* Those mappings that are the file's still: what was unmapped since may be anything now. */
static void
rest_all(struct rest *rest, int maps, int pagemap)
{
    struct mapping m, image = {0};
    size_t len = 0;
    ssize_t n;

    while ((n = read(maps, rest->text + len, TEXT - 1 - len)) > 0)
        len += (size_t)n;
    if (n < 0 || len == TEXT - 1)
        return;
    for (size_t i = 0; i < len; i++)
        if (rest->text[i] == '\n')
            rest->text[i] = 0;
    for (char *line = rest->text; line < rest->text + len && !image.start; line += strlen(line) + 1)
        if (parse_mapping(line, &m) == 0 && m.start == told.image)
            image = m;
    for (char *line = rest->text; line < rest->text + len && image.start; line += strlen(line) + 1)
        if (parse_mapping(line, &m) == 0 && is_of_same_file(&m, &image))
            give_back(rest, &m, pagemap);
    (void)madvise((void *)image.start, image.end - image.start, MADV_DONTNEED);
}

size_t
freeze_rest(void)
{
    scoped(fd_close) int maps = -1, pagemap = -1;
    struct rest *rest;
    sigset_t all, before;
    size_t given = 0;

    if (!told.image || !has_one_thread())
        return 0;
    maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    rest = mmap(NULL, sizeof *rest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (maps < 0 || pagemap < 0 || rest == MAP_FAILED)
        return 0;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    rest_all(rest, maps, pagemap);
    sigprocmask(SIG_SETMASK, &before, NULL);
    given = rest->given;
    munmap(rest, sizeof *rest);
    return given;
}

int
freeze(int fd, struct err *err)
{
    int r;

    err->code = 0;
    if (!&__curbrk)
        return err_set(err, ENOTSUP, "the C library does not say where its heap ends");
    if (find_number(err) < 0)
        return -1;
    remember();
    if (freeze_save(registers)) {
        come_back();
        return 1;
    }
    plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); /* stands alone */
    if (plan == MAP_FAILED)
        return err_errno(err, "plan");
    r = read_maps(err) < 0 || plan_all(err) < 0 || find_patches(err) < 0 ? -1 : 0;
    if (r == 0) {
        lay_out();
        r = write_all(fd, err);
    }
    munmap(plan, sizeof *plan);
    return r;
}

#else

size_t
freeze_rest(void)
{
    return 0;
}

int
freeze_arguments(void)
{
    return 0;
}

void
freeze_prepare(void)
{
}

int
freeze(int fd, struct err *err)
{
    return err_set(err, ENOTSUP, "it is known for x86-64 and the GNU C library only");
}

#endif
