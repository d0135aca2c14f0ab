/* SPDX-License-Identifier: BSD-3-Clause */
#include "container/engine.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define API "/v1.41"
#define ANSWER_MAX (16 << 20) /* bytes */
#define WAIT_MS 1000

struct call {
    struct engine *engine;
    CURL *curl;
    struct buf answer;
    engine_line *hear; /* NULL: the answer is one value */
    void *arg;
    struct err *err; /* of hear */
    int refused;     /* hear said no */
};

/*** A connection ***/

static int
try_socket(const char *path, struct err *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    scoped(fd_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof at.sun_path)
        return err_set(err, ENAMETOOLONG, "the path of the engine's socket is too long: '%s'", path);
    strcpy(at.sun_path, path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0)
        return 0;
    if (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR)
        return err_set(err, EHOSTDOWN, "no container engine runs at '%s'", path);
    if (errno == EACCES || errno == EPERM)
        return err_set(err, EACCES, "you may not use the container engine at '%s'", path);
    return err_errno(err, "reach the container engine at '%s'", path);
}

int
engine_open(struct engine *ret, struct err *err)
{
    struct engine e = ENGINE_EMPTY;

    e.socket = engine_find(err);
    if (!e.socket || try_socket(e.socket, err) < 0) {
        free(e.socket);
        return -1;
    }
    if (curl_global_init(CURL_GLOBAL_NOTHING) != CURLE_OK || !(e.multi = curl_multi_init())) {
        free(e.socket);
        return err_set(err, ENOMEM, "libcurl does not start");
    }
    *ret = e;
    return 0;
}

void
engine_close(struct engine *e)
{
    if (e->multi)
        curl_multi_cleanup(e->multi);
    free(e->socket);
    *e = ENGINE_EMPTY;
}

/*** A call ***/

static int
hear_lines(struct call *c)
{
    uint8_t *end;

    while (c->answer.len && (end = memchr(c->answer.data, '\n', c->answer.len))) {
        size_t len = (size_t)(end - c->answer.data) + 1;
        json_t *line = json_loadb((const char *)c->answer.data, len, 0, NULL);
        int r = line ? c->hear(c->arg, line, c->err) : 0;
        json_decref(line);
        buf_consume(&c->answer, len);
        if (r < 0) {
            c->refused = 1;
            return -1;
        }
    }
    return 0;
}

static size_t
on_bytes(char *data, size_t one, size_t len, void *arg)
{
    struct call *c = arg;
    long status = 0;

    if (c->answer.len + len > ANSWER_MAX || buf_add(&c->answer, data, len) < 0)
        return 0;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    return c->hear && status < 300 && hear_lines(c) < 0 ? 0 : len;
}

/* Whether the supervisor is gone. It has nothing to say while its sandbox is made. */
static int
is_stopped(const struct engine *e)
{
    struct pollfd p = {.fd = e->stop};

    return e->stop >= 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

static CURLcode
run(struct call *c, struct err *err)
{
    struct engine *e = c->engine;
    struct curl_waitfd stop = {.fd = e->stop, .events = CURL_WAIT_POLLIN};
    int running = 1, left;
    CURLMsg *done;

    while (running) {
        if (curl_multi_perform(e->multi, &running) != CURLM_OK)
            return CURLE_FAILED_INIT;
        if (running && is_stopped(e)) {
            err_set(err, ECANCELED, "the supervisor is gone");
            return CURLE_ABORTED_BY_CALLBACK;
        }
        if (running)
            curl_multi_poll(e->multi, &stop, e->stop >= 0, WAIT_MS, NULL);
    }
    done = curl_multi_info_read(e->multi, &left);
    return done ? done->data.result : CURLE_FAILED_INIT;
}

/* {"message": "..."} */
static int
refuse(const struct call *c, long status, struct err *err)
{
    json_auto_t *answer = json_loadb((const char *)c->answer.data, c->answer.len, 0, NULL);
    const char *said = json_string_value(json_object_get(answer, "message"));
    int code = status == 404 ? ENOENT : status == 409 ? EEXIST : status == 403 ? EACCES : EIO;

    if (said && strstr(said, "no space left on device"))
        code = ENOSPC;
    return err_set(err, code, "the container engine says: %s", said ? said : "nothing");
}

static int
finish(struct call *c, CURLcode result, struct err *err)
{
    long status = 0;

    if (c->refused || err->code == ECANCELED)
        return -1;
    if (result == CURLE_COULDNT_CONNECT || result == CURLE_GOT_NOTHING || result == CURLE_RECV_ERROR ||
        result == CURLE_SEND_ERROR || result == CURLE_PARTIAL_FILE)
        return err_set(err, EHOSTDOWN, "the container engine at '%s' went away", c->engine->socket);
    if (result != CURLE_OK)
        return err_set(err, EIO, "ask the container engine: %s", curl_easy_strerror(result));
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    return status >= 300 && status != 304 ? refuse(c, status, err) : 0;
}

static int
call(struct call *c, const char *method, const char *path, const json_t *body, struct err *err)
{
    scoped(buf_release) struct buf url = {0};
    scoped(str_free) char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    CURLcode result;
    int r;

    c->curl = curl_easy_init();
    if (!c->curl || !headers || buf_printf(&url, "http://docker" API "%s", path) < 0 || (body && !text)) {
        r = err_set(err, ENOMEM, "ask the container engine");
    } else {
        curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, c->engine->socket);
        curl_easy_setopt(c->curl, CURLOPT_URL, buf_string(&url));
        curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
        curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_bytes);
        curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, c);
        curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(c->curl, CURLOPT_PROXY, ""); /* whatever the environment says */
        if (strcmp(method, "POST") == 0)
            curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, text ? text : "");
        err->code = 0;
        curl_multi_add_handle(c->engine->multi, c->curl);
        result = run(c, err);
        r = finish(c, result, err);
        curl_multi_remove_handle(c->engine->multi, c->curl);
    }
    curl_easy_cleanup(c->curl);
    curl_slist_free_all(headers);
    return r;
}

json_t *
engine_call(struct engine *e, const char *method, const char *path, const json_t *body, struct err *err)
{
    struct call c = {.engine = e};
    json_t *answer = NULL;
    int r = call(&c, method, path, body, err);

    if (r == 0)
        answer = c.answer.len ? json_loadb((const char *)c.answer.data, c.answer.len, 0, NULL) : json_object();
    if (r == 0 && !answer)
        err_set(err, EPROTO, "the container engine answers '%s' with something else than it should", path);
    buf_release(&c.answer);
    return answer;
}

int
engine_stream(struct engine *e, const char *method, const char *path, engine_line *hear, void *arg,
              struct err *err)
{
    struct call c = {.engine = e, .hear = hear, .arg = arg, .err = err};
    int r = call(&c, method, path, NULL, err);

    buf_release(&c.answer);
    return r;
}

int
engine_escape(struct buf *path, const char *text)
{
    for (; *text; text++)
        if (isalnum((unsigned char)*text) || strchr("-._~", *text) ? buf_add(path, text, 1) < 0
                                                                   : buf_printf(path, "%%%02X", (unsigned char)*text) < 0)
            return -1;
    return 0;
}
