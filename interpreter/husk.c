/* SPDX-License-Identifier: BSD-3-Clause
 *
 * _husk: the interpreter's half of the wall, as a Python extension (limited API, any 3.9 or
 * newer). Frames of interp.def go over one socket; text goes into the ring (wall/ring.h).
 *
 * Nothing here is trusted by the supervisor, and nothing here is secret: user code can call it
 * and can write to the socket itself. It has no thread unless there are subshells or a debugger, so
 * that os.fork() in user code is as safe as without us; a forked child writes its text to
 * descriptors 1 and 2 instead.
 */
#include "interpreter/encode.h"
#include "interpreter/freeze.h"
#include "interpreter/print.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "wall/aside.h"
#include "wall/interp.h"
#include "wall/ring.h"

/* In every Python since 3.3 and in the limited API since 3.10: declared here for 3.9. */
#if Py_LIMITED_API < 0x030a0000
extern const char *PyUnicode_AsUTF8AndSize(PyObject *unicode, Py_ssize_t *size);
#endif

#ifndef SYS_SECCOMP /* si_code of the filter's signal: sigaction(2); not in every libc */
#define SYS_SECCOMP 1
#endif

#define SEND_PARTS 64               /* parts of a frame that need no allocation */
#define FREEZE_NUMBERS 64           /* processes */
#define TEXT_CHUNK (RING_BYTES / 8) /* bytes: longer text is several records */

static struct ring *ring;
static uint8_t *ring_data;
static const struct progress *progress;
static int pipes[2] = {-1, -1}; /* own copies of 1 and 2: user code may redirect those */
static int waiting = -1;        /* epoll: readable while a pipe holds bytes */
static uint64_t written[2];     /* bytes of the pipes when last told by a MARK */
static uint32_t rung;           /* the last bell that was answered */
static pid_t owner;             /* the process that was started */
static int forked;              /* 1 in children of the process that was started */
static uint32_t current;        /* slot of the running (or last) cell */
static int64_t cpu_before;      /* microseconds, when it began */
static PyObject *slot_getter;   /* callable: the slot of this context, or 0 */
static PyObject *fallback;      /* callable: what JSON knows, for a value that it does not */

/* Bytes of frames that came through a socket. Only one thread reads from it. */
struct inbox {
    int fd;
    struct buf buf;
    size_t used; /* of it, already returned */
};
static struct inbox in = {.fd = INTERP_FD_SOCKET}, side = {.fd = INTERP_FD_SIDE};
static pthread_mutex_t out_lock = PTHREAD_MUTEX_INITIALIZER;

static void
after_fork(void)
{
    forked = 1;
}

/*** The ring ***/

/* How many bytes were ever written to each pipe. The reader may be taking some just now: its
 * sequence number tells, as with a seqlock. It is given the processor meanwhile; a reader that
 * is gone or stopped is not waited for longer than text would wait for it. */
static void
count_written(uint64_t into[2])
{
    struct epoll_event event;

    for (int tries = 0; tries < 10000000; tries++) {
        uint32_t seq = __atomic_load_n(&progress->seq, __ATOMIC_ACQUIRE);
        int inside[2] = {0, 0};

        if (seq & 1) {
            sched_yield();
            continue;
        }
        if (epoll_wait(waiting, &event, 1, 0) != 0)
            for (int i = 0; i < 2; i++)
                ioctl(pipes[i], FIONREAD, &inside[i]);
        for (int i = 0; i < 2; i++)
            into[i] = __atomic_load_n(&progress->drained[i], __ATOMIC_RELAXED) + (uint64_t)inside[i];
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&progress->seq, __ATOMIC_RELAXED) == seq)
            return;
    }
}

static uint64_t
ring_free(void)
{
    return RING_BYTES - (ring->head - __atomic_load_n(&progress->tail, __ATOMIC_ACQUIRE));
}

static void
ring_copy(uint64_t at, const void *from, size_t len)
{
    size_t start = at & (RING_BYTES - 1);
    size_t first = len < RING_BYTES - start ? len : RING_BYTES - start;

    memcpy(ring_data + start, from, first);
    memcpy(ring_data, (const uint8_t *)from + first, len - first);
}

static void
ring_put(uint32_t kind, uint32_t slot, const void *data, uint32_t len)
{
    struct ring_record r = {kind, slot, len};

    ring_copy(ring->head, &r, sizeof r);
    ring_copy(ring->head + sizeof r, data, len);
    __atomic_store_n(&ring->head, ring->head + sizeof r + len, __ATOMIC_SEQ_CST);
}

static int send_frame(struct frame frame, const struct bytes *parts, size_t nparts);

static int
ring_doorbell(void)
{
    return send_frame((struct frame){.number = FRAME_DOORBELL, .mark = ring->head}, NULL, 0);
}

/* Waits until the reader has made room, and tells it: it may look again only after some milliseconds, and a
 * flood would go at the pace of a full ring for each of those. Runs signal handlers: a flood can be interrupted. */
static int
ring_wait(size_t want)
{
    for (int told = 0; ring_free() < want; told = 1) {
        struct timespec limit = {.tv_nsec = 100000000};
        uint32_t seen = __atomic_load_n(&progress->tail_futex, __ATOMIC_ACQUIRE);

        __atomic_store_n(&ring->stalled, 1, __ATOMIC_SEQ_CST);
        if (ring_free() < want) {
            if (!told && ring_doorbell() < 0)
                return -1;
            Py_BEGIN_ALLOW_THREADS
            syscall(SYS_futex, &progress->tail_futex, FUTEX_WAIT, seen, &limit, NULL, 0);
            Py_END_ALLOW_THREADS
        }
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
    return 0;
}

static int
ring_bell(void)
{
    uint32_t bell = __atomic_load_n(&progress->bell, __ATOMIC_SEQ_CST);

    if (bell == 0 || bell == rung)
        return 0;
    rung = bell;
    return ring_doorbell();
}

/* What children and C code have written so far comes before what follows. */
static int
put_mark(void)
{
    uint64_t now[2] = {written[0], written[1]};

    count_written(now);
    if (now[0] == written[0] && now[1] == written[1])
        return 0;
    if (ring_wait(sizeof(struct ring_record) + sizeof now) < 0)
        return -1;
    memcpy(written, now, sizeof now);
    ring_put(RING_MARK, 0, now, sizeof now);
    return 0;
}

static int
put_text(uint32_t kind, uint32_t slot, const char *text, size_t len)
{
    if (put_mark() < 0)
        return -1;
    while (len) {
        size_t n = len < TEXT_CHUNK ? len : TEXT_CHUNK;

        while (n < len && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--; /* not inside a character */
        if (ring_wait(sizeof(struct ring_record) + n) < 0)
            return -1;
        ring_put(kind, slot, text, (uint32_t)n);
        if (ring_bell() < 0)
            return -1;
        text += n;
        len -= n;
    }
    return 0;
}

/* The slot that output belongs to: that of the asyncio task, else of the latest cell. */
static uint32_t
output_slot(void)
{
    PyObject *value;
    unsigned long slot = 0;

    if (!slot_getter)
        return current;
    value = PyObject_CallFunctionObjArgs(slot_getter, NULL);
    if (value) {
        slot = PyLong_AsUnsignedLong(value);
        Py_DECREF(value);
    }
    if (PyErr_Occurred()) {
        PyErr_Clear();
        slot = 0;
    }
    return slot ? (uint32_t)slot : current;
}

static int
write_descriptor(int fd, const char *text, size_t len)
{
    while (len) {
        ssize_t n;
        Py_BEGIN_ALLOW_THREADS
        n = write(fd, text, len);
        Py_END_ALLOW_THREADS
        if (n < 0 && errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0)
            return -1;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

const char *
stream_utf8(PyObject *text, PyObject **hold, Py_ssize_t *ret_len)
{
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, ret_len);
    char *raw;

    if (utf8)
        return utf8;
    PyErr_Clear();
    *hold = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");
    return *hold && PyBytes_AsStringAndSize(*hold, &raw, ret_len) == 0 ? raw : NULL;
}

int
stream_write(uint32_t stream, const char *utf8, size_t len)
{
    return !ring || forked ? write_descriptor((int)stream, utf8, len) : put_text(stream, output_slot(), utf8, len);
}

static PyObject *
write_text(uint32_t kind, PyObject *text)
{
    PyObject *hold = NULL;
    const char *utf8;
    Py_ssize_t len;
    int r;

    if (!PyUnicode_Check(text)) {
        PyErr_Format(PyExc_TypeError, "write() argument must be str, not %R", (PyObject *)Py_TYPE(text));
        return NULL;
    }
    utf8 = stream_utf8(text, &hold, &len);
    r = utf8 ? stream_write(kind, utf8, (size_t)len) : -1;
    Py_XDECREF(hold);
    return r < 0 ? NULL : PyLong_FromSsize_t(PyUnicode_GetLength(text));
}

static PyObject *
husk_write_stdout(PyObject *self, PyObject *text)
{
    return write_text(RING_STDOUT, text);
}

static PyObject *
husk_write_stderr(PyObject *self, PyObject *text)
{
    return write_text(RING_STDERR, text);
}

uint32_t
stream_of(PyObject *write)
{
    PyCFunction function = PyCFunction_Check(write) ? PyCFunction_GetFunction(write) : NULL;

    return function == husk_write_stdout ? RING_STDOUT : function == husk_write_stderr ? RING_STDERR : 0;
}

/*** Frames ***/

/* Writes all of iov, waiting while the supervisor is slow. A frame is never left half sent, so
 * signals are not looked at in between. */
static int
send_all(struct iovec *iov, size_t n)
{
    while (n) {
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n < 1024 ? n : 1024};
        ssize_t sent = sendmsg(INTERP_FD_SOCKET, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = INTERP_FD_SOCKET, .events = POLLOUT};
            poll(&p, 1, 1000);
            continue;
        }
        if (sent < 0 && errno != EINTR)
            return -1;
        while (n && sent >= (ssize_t)iov->iov_len && sent >= 0) {
            sent -= (ssize_t)iov->iov_len;
            iov++;
            n--;
        }
        if (n && sent > 0) {
            iov->iov_base = (char *)iov->iov_base + sent;
            iov->iov_len -= (size_t)sent;
        }
    }
    return 0;
}

static int
send_frame(struct frame frame, const struct bytes *parts, size_t nparts)
{
    uint8_t head[FRAME_HEAD], few_heads[SEND_PARTS][FRAME_PART_HEAD];
    uint8_t(*heads)[FRAME_PART_HEAD] = few_heads;
    struct iovec few[1 + 2 * SEND_PARTS], *iov = few;
    size_t n = 0, payload = frame_payload(parts, nparts);
    int r = -1;

    if (payload > interp_rules[frame.number].max) {
        PyErr_Format(PyExc_ValueError, "a message of %zu bytes, at most %u are allowed", payload,
                     interp_rules[frame.number].max);
        return -1;
    }
    if (nparts > interp_rules[frame.number].max_parts) {
        PyErr_Format(PyExc_ValueError, "a message of %zu parts, at most %u are allowed", nparts,
                     interp_rules[frame.number].max_parts);
        return -1;
    }
    if (nparts > SEND_PARTS) {
        iov = PyMem_Malloc((1 + 2 * nparts) * sizeof *iov);
        heads = PyMem_Malloc(nparts * sizeof *heads);
        if (!iov || !heads) {
            PyErr_NoMemory();
            goto out;
        }
    }
    frame.length = (uint32_t)payload;
    frame_put_head(head, &frame);
    iov[n++] = (struct iovec){head, sizeof head};
    for (size_t i = 0; i < nparts; i++) {
        put32(heads[i], (uint32_t)parts[i].len);
        iov[n++] = (struct iovec){heads[i], FRAME_PART_HEAD};
        if (parts[i].len)
            iov[n++] = (struct iovec){(void *)parts[i].data, parts[i].len};
    }
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&out_lock);
    r = send_all(iov, n);
    pthread_mutex_unlock(&out_lock);
    Py_END_ALLOW_THREADS
    if (r < 0)
        PyErr_SetFromErrno(PyExc_OSError);
out:
    if (nparts > SEND_PARTS) {
        PyMem_Free(iov);
        PyMem_Free(heads);
    }
    return r;
}

/* What stands in the tuple, as bytes: bytes are taken as they are, all else becomes JSON in
 * `json`. Offsets first, as `json` moves while it grows. */
static int
collect_parts(PyObject *list, struct buf *json, struct bytes *parts)
{
    Py_ssize_t n = PyTuple_Size(list);

    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PyTuple_GetItem(list, i);
        char *data;
        Py_ssize_t len;

        if (PyBytes_Check(item)) {
            if (PyBytes_AsStringAndSize(item, &data, &len) < 0)
                return -1;
            parts[i] = (struct bytes){(uint8_t *)data, (size_t)len};
        } else {
            size_t start = json->len;
            if (encode_json(item, fallback, json) < 0)
                return -1;
            parts[i] = (struct bytes){NULL, json->len - start};
        }
    }
    for (size_t i = 0, at = 0; i < (size_t)n; i++)
        if (!parts[i].data) {
            parts[i].data = json->data + at;
            at += parts[i].len;
        }
    return 0;
}

/* send(number, slot, value, parts): parts is a tuple; bytes go as they are, all else as JSON.
 * slot 0: of this context. */
static PyObject *
husk_send(PyObject *self, PyObject *args)
{
    unsigned number, slot, value;
    scoped(buf_release) struct buf json = {0};
    PyObject *list, *ret = NULL;
    struct bytes *parts;
    struct frame f;

    if (!PyArg_ParseTuple(args, "IIIO!", &number, &slot, &value, &PyTuple_Type, &list))
        return NULL;
    if (!ring || forked || number >= FRAME_LIMIT || !interp_rules[number].name)
        Py_RETURN_FALSE; /* a forked child has no channel of its own */
    parts = PyMem_Calloc((size_t)PyTuple_Size(list) + 1, sizeof *parts);
    if (!parts)
        return PyErr_NoMemory();
    if (collect_parts(list, &json, parts) < 0 || put_mark() < 0)
        goto out;
    f = (struct frame){.number = (uint16_t)number,
                       .slot = slot ? slot : output_slot(),
                       .value = value,
                       .mark = ring->head};
    if (send_frame(f, parts, (size_t)PyTuple_Size(list)) == 0)
        ret = PyBool_FromLong(1);
out:
    PyMem_Free(parts);
    return ret;
}

/* Reads what is there. 1: got bytes, 0: nothing yet, -1: exception set. */
static int
fill(struct inbox *from, int block)
{
    struct buf *buf = &from->buf;
    ssize_t n;
    size_t want = 65536;

    if (block) {
        struct pollfd p = {.fd = from->fd, .events = POLLIN};
        Py_BEGIN_ALLOW_THREADS
        poll(&p, 1, -1);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) /* its handler may call look(), and so fill() */
            return -1;
    }
    if (from->used) {
        buf_consume(buf, from->used);
        from->used = 0;
    }
    if (buf->len >= FRAME_HEAD && /* a long frame has begun: room for all of it at once */
        FRAME_HEAD + (size_t)get32(buf->data) > buf->len)
        want = FRAME_HEAD + (size_t)get32(buf->data) - buf->len;
    if (buf_reserve(buf, want) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    n = recv(from->fd, buf->data + buf->len, buf->size - buf->len, MSG_DONTWAIT);
    if (n == 0) {
        PyErr_SetString(PyExc_EOFError, "the supervisor is gone");
        return -1;
    }
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    buf->len += n > 0 ? (size_t)n : 0;
    return n > 0;
}

static PyObject *
frame_to_tuple(const struct frame *f)
{
    PyObject *parts = PyList_New(0), *ret;
    struct bytes part;
    size_t at = 0;

    if (!parts)
        return NULL;
    while (frame_next(f, &at, &part)) {
        PyObject *item = PyBytes_FromStringAndSize((const char *)part.data, (Py_ssize_t)part.len);
        if (!item || PyList_Append(parts, item) < 0) {
            Py_XDECREF(item);
            Py_DECREF(parts);
            return NULL;
        }
        Py_DECREF(item);
    }
    ret = Py_BuildValue("(IIIN)", f->number, f->slot, f->value, parts);
    return ret;
}

/* The frame at `at`: the bytes used, 0 if it is not complete, or -1 with an exception. */
static ssize_t
parse(const struct inbox *from, size_t at, struct frame *ret)
{
    struct err err;
    ssize_t used = frame_parse(from->buf.data + at, from->buf.len - at, interp_rules, INTERP_BY_KERNEL,
                               INTERP_BOOT | INTERP_IDLE | INTERP_BUSY, ret, &err);

    if (used < 0)
        PyErr_Format(PyExc_RuntimeError, "the supervisor broke the protocol: %s", err.text);
    return used;
}

/* The next frame: 1, 0: there is none, -1: exception set. */
static int
next_frame(struct inbox *from, int block, struct frame *ret)
{
    for (;;) {
        ssize_t used = parse(from, from->used, ret);
        int r;

        if (used < 0)
            return -1;
        if (used > 0) {
            from->used += (size_t)used;
            return 1;
        }
        r = fill(from, block);
        if (r < 0)
            return -1;
        if (r == 0 && !block)
            return 0;
    }
}

/* receive(block) -> (number, slot, value, parts) or None */
static PyObject *
husk_receive(PyObject *self, PyObject *arg)
{
    struct frame f;

    switch (next_frame(&in, PyObject_IsTrue(arg), &f)) {
    case 1:
        return frame_to_tuple(&f);
    case 0:
        Py_RETURN_NONE;
    default:
        return NULL;
    }
}

/* receive_side() -> (shell, (number, slot, value, parts)) */
static PyObject *
husk_receive_side(PyObject *self, PyObject *none)
{
    struct frame f;

    if (next_frame(&side, 1, &f) < 0)
        return NULL;
    return Py_BuildValue("(KN)", (unsigned long long)f.mark, frame_to_tuple(&f));
}

/* look() -> [(number, slot, value, parts), ...]: the frames about shells among those that came.
 * They stay, as all others: receive() returns them again, at their turn. For a signal handler of
 * the main thread. */
static PyObject *
husk_look(PyObject *self, PyObject *none)
{
    PyObject *ret = PyList_New(0);
    struct frame f;
    ssize_t used;

    if (!ret || fill(&in, 0) < 0)
        goto fail;
    for (size_t at = in.used; (used = parse(&in, at, &f)) > 0; at += (size_t)used) {
        PyObject *item;
        int r;

        if (f.number != FRAME_OPEN_SHELL && f.number != FRAME_LISTEN)
            continue;
        item = frame_to_tuple(&f);
        r = item ? PyList_Append(ret, item) : -1;
        Py_XDECREF(item);
        if (r < 0)
            goto fail;
    }
    if (used == 0)
        return ret;
fail:
    Py_XDECREF(ret);
    return NULL;
}

/* interrupt(thread, exception): raises it in another thread, at its next byte code; None: not any
 * more. */
static PyObject *
husk_interrupt(PyObject *self, PyObject *args)
{
    unsigned long thread;
    PyObject *exception;

    if (!PyArg_ParseTuple(args, "kO", &thread, &exception))
        return NULL;
    PyThreadState_SetAsyncExc(thread, exception == Py_None ? NULL : exception);
    Py_RETURN_NONE;
}

/* buffered() -> bool: whether receive() has something without asking the socket */
static PyObject *
husk_buffered(PyObject *self, PyObject *none)
{
    return PyBool_FromLong(in.buf.len > in.used);
}

/*** Start ***/

static int
watch_pipes(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    int r = 0;

    waiting = epoll_create1(EPOLL_CLOEXEC);
    if (waiting < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        r |= epoll_ctl(waiting, EPOLL_CTL_ADD, INTERP_FD_PIPES + i, &event);
        r |= fcntl(INTERP_FD_PIPES + i, F_SETFD, FD_CLOEXEC);
    }
    return r;
}

static void *
map_shared(int fd, size_t size, int protection)
{
    void *at = mmap(NULL, size, protection, MAP_SHARED, fd, 0);

    close(fd);
    return at == MAP_FAILED ? NULL : at;
}

/* The filter stopped a call. What it was is left for the supervisor, and the process ends as
 * without this handler: flags of sigaction(2) have restored the default. A child shares the
 * ring, and its end is none of the interpreter's. */
static void
on_refused_call(int signal, siginfo_t *info, void *context)
{
    if (info->si_code == SYS_SECCOMP && getpid() == owner) {
        ring->refused_call = (uint32_t)info->si_syscall;
        ring->refused_abi = info->si_arch;
    }
    raise(signal);
}

static int
watch_refused_calls(void)
{
    struct sigaction action = {.sa_sigaction = on_refused_call,
                               .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER};

    owner = getpid();
    return sigaction(SIGSYS, &action, NULL);
}

/* start(slot, fallback): take over the descriptors that the supervisor left (interp.h). */
static PyObject *
husk_start(PyObject *self, PyObject *args)
{
    PyObject *slot, *known;
    struct ring *mapped;

    if (!PyArg_ParseTuple(args, "OO", &slot, &known))
        return NULL;
    if (ring)
        Py_RETURN_NONE;
    progress = map_shared(INTERP_FD_PROGRESS, PROGRESS_MAP, PROT_READ);
    mapped = map_shared(INTERP_FD_RING, RING_MAP, PROT_READ | PROT_WRITE);
    for (int i = 0; i < 2; i++)
        pipes[i] = fcntl(i + 1, F_DUPFD_CLOEXEC, 64);
    if (!progress || !mapped || pipes[0] < 0 || pipes[1] < 0 || watch_pipes() < 0 ||
        fcntl(INTERP_FD_SOCKET, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(INTERP_FD_SIDE, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(INTERP_FD_ASIDE, F_SETFD, FD_CLOEXEC) < 0 ||
        pthread_atfork(NULL, NULL, after_fork) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    ring_data = (uint8_t *)mapped + RING_OFFSET;
    slot_getter = slot;
    Py_INCREF(slot);
    fallback = known;
    Py_INCREF(known);
    ring = mapped;
    if (watch_refused_calls() < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* spend_numbers(): the next child has a number that the first processes of a sandbox have not. */
static PyObject *
husk_spend_numbers(PyObject *self, PyObject *none)
{
    for (int i = 0; i < FREEZE_NUMBERS; i++) {
        pid_t pid = vfork();

        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) < 0)
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* The variables that execve(2) gave to this process. */
static PyObject *
list_environment(void)
{
    PyObject *list = PyList_New(0);

    for (char **e = environ; list && *e; e++) {
        PyObject *item = PyBytes_FromString(*e);
        int r = item ? PyList_Append(list, item) : -1;

        Py_XDECREF(item);
        if (r < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

/* freeze(fd): a child of this process is written to the descriptor (freeze.h). It is a child of
 * fork(2), so that whatever has threads and minds has been told (pthread_atfork) and has none. Returns
 * the child's exit status; and in each thawed process, where it is a child of fork once more,
 * (its environment, how many arguments it has). */
static PyObject *
husk_freeze(PyObject *self, PyObject *to)
{
    int fd = (int)PyLong_AsLong(to), status = 0, r;
    struct err err;
    pid_t pid;

    if (PyErr_Occurred())
        return NULL;
    freeze_prepare();
    PyOS_BeforeFork();
    pid = fork();
    if (pid != 0) {
        PyOS_AfterFork_Parent();
        if (pid < 0 || waitpid(pid, &status, 0) < 0)
            return PyErr_SetFromErrno(PyExc_OSError);
        return PyLong_FromLong(status);
    }
    PyOS_AfterFork_Child();
    PyOS_BeforeFork();
    r = freeze(fd, &err);
    if (r <= 0) {
        if (r < 0)
            (void)!dprintf(STDERR_FILENO, "%s\n", err.text);
        _exit(r < 0);
    }
    PyOS_AfterFork_Child();
    return Py_BuildValue("(Ni)", list_environment(), freeze_arguments());
}

/* rest() -> bytes of memory that are shared again */
static PyObject *
husk_rest(PyObject *self, PyObject *none)
{
    return PyLong_FromSize_t(freeze_rest());
}

/* Microseconds of this process and its children that have ended. */
static int64_t
cpu_time(void)
{
    struct rusage own, children;

    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    return (own.ru_utime.tv_sec + own.ru_stime.tv_sec + children.ru_utime.tv_sec +
            children.ru_stime.tv_sec) * (int64_t)1000000 +
           own.ru_utime.tv_usec + own.ru_stime.tv_usec + children.ru_utime.tv_usec +
           children.ru_stime.tv_usec;
}

static PyObject *
husk_set_slot(PyObject *self, PyObject *slot)
{
    unsigned long value = PyLong_AsUnsignedLong(slot);

    if (PyErr_Occurred())
        return NULL;
    current = (uint32_t)value;
    Py_RETURN_NONE;
}

static PyObject *
husk_begin(PyObject *self, PyObject *slot)
{
    cpu_before = cpu_time();
    return husk_set_slot(self, slot);
}

/* used() -> {"cpu_us": since begin(), "peak": most bytes of this process, ever} */
static PyObject *
husk_used(PyObject *self, PyObject *none)
{
    struct rusage own;

    getrusage(RUSAGE_SELF, &own);
    return Py_BuildValue("{sLsL}", "cpu_us", (long long)(cpu_time() - cpu_before), "peak",
                         (long long)own.ru_maxrss * 1024);
}

/* sync(): output of C code that sits in stdio's buffers belongs to the cell that made it. */
static PyObject *
husk_sync(PyObject *self, PyObject *none)
{
    fflush(NULL);
    Py_RETURN_NONE;
}

/* murmur2(bytes, seed): the hash by which front ends and debuggers name the file of a cell. */
static PyObject *
husk_murmur2(PyObject *self, PyObject *args)
{
    const uint32_t m = 0x5bd1e995;
    const unsigned char *data;
    Py_ssize_t len;
    unsigned seed;
    uint32_t h, k = 0;

    if (!PyArg_ParseTuple(args, "y#I", &data, &len, &seed))
        return NULL;
    h = seed ^ (uint32_t)len;
    for (; len >= 4; data += 4, len -= 4) {
        k = (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
            (uint32_t)data[3] << 24;
        k *= m;
        k ^= k >> 24;
        k *= m;
        h *= m;
        h ^= k;
    }
    if (len) {
        k = 0;
        while (len--)
            k = k << 8 | data[len];
        h ^= k;
        h *= m;
    }
    h ^= h >> 13;
    h *= m;
    h ^= h >> 15;
    return PyLong_FromUnsignedLong(h);
}

static PyMethodDef methods[] = {
    {"start", husk_start, METH_VARARGS, "start(slot, fallback): take over the supervisor's descriptors"},
    {"begin", husk_begin, METH_O, "begin(slot): a request begins, output belongs to it"},
    {"set_slot", husk_set_slot, METH_O, "set_slot(slot): output belongs to another request"},
    {"used", husk_used, METH_NOARGS, "used() -> dict of what this request cost"},
    {"send", husk_send, METH_VARARGS, "send(number, slot, value, parts): what is not bytes becomes JSON"},
    {"receive", husk_receive, METH_O, "receive(block) -> (number, slot, value, parts) or None"},
    {"receive_side", husk_receive_side, METH_NOARGS, "receive_side() -> (shell, frame), for the other shells"},
    {"look", husk_look, METH_NOARGS, "look() -> list of the frames about shells that came"},
    {"interrupt", husk_interrupt, METH_VARARGS, "interrupt(thread, exception or None)"},
    {"buffered", husk_buffered, METH_NOARGS, "buffered() -> bool"},
    {"write_stdout", husk_write_stdout, METH_O, "write_stdout(text)"},
    {"write_stderr", husk_write_stderr, METH_O, "write_stderr(text)"},
    {"make_print", make_print, METH_O, "make_print(print) -> the same, a line at a time (print.h)"},
    {"spend_numbers", husk_spend_numbers, METH_NOARGS, "spend_numbers(): of processes"},
    {"rest", husk_rest, METH_NOARGS, "rest() -> bytes that were given back, as they are again what was frozen"},
    {"freeze", husk_freeze, METH_O, "freeze(fd) -> status; in who is thawed (environment, count of arguments)"},
    {"murmur2", husk_murmur2, METH_VARARGS, "murmur2(bytes, seed) -> int"},
    {"sync", husk_sync, METH_NOARGS, "sync(): flush C's stdio"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_husk", "The interpreter's half of husk's wall.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__husk(void)
{
    PyObject *m = PyModule_Create(&module);

    if (!m)
        return NULL;
    PyModule_AddIntConstant(m, "SOCKET", INTERP_FD_SOCKET);
    PyModule_AddIntConstant(m, "VERSION", INTERP_VERSION);
    PyModule_AddIntConstant(m, "EXECUTE_SILENT_SHIFT", 31);
    PyModule_AddIntConstant(m, "EXECUTE_STORE_SHIFT", 30);
    PyModule_AddIntConstant(m, "EXECUTE_COUNT", EXECUTE_COUNT);
    PyModule_AddIntConstant(m, "DEBUGGER_SHELL", DEBUGGER_SHELL);
    PyModule_AddIntConstant(m, "ASIDE_SOCKET", INTERP_FD_ASIDE);
#define FRAME(name, no, sender, max, min, many, meaning)                                        \
    PyModule_AddIntConstant(m, "ASIDE_" #name, no);
#include "wall/aside.def"
#undef FRAME
    /* The frames by name: Python has no second copy of the table. */
    for (int no = 0; no < FRAME_LIMIT; no++)
        if (interp_rules[no].name)
            PyModule_AddIntConstant(m, interp_rules[no].name, no);
    return m;
}
