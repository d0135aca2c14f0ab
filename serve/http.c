/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/json.h"
#include "base/log.h"
#include "serve/handlers.h"
#include "serve/login.h"
#include "serve/tls.h"

#define MEMORY (32u << 10) /* of a connection: its headers, and what is read at a time */
#define QUIET_S 120        /* a connection on which nothing happens */
#define HEADER_MS 15000    /* a request's head has so long to arrive; and the body of who need not say who it is */
#define FORM_MAX 16384
/* What is no page shows nothing and runs nothing, also where a browser takes it for one; in Jupyter Server's words. */
#define NO_PAGE "frame-ancestors 'self'; report-uri /api/security/csp-report; default-src 'none'"
#define LOOK_MS 1000       /* slow ones are looked for this often */

#define GET "GET"
#define POST "POST"
#define PUT "PUT"
#define PATCH "PATCH"
#define DELETE "DELETE"
#define TOKEN 0
#define OPEN 1
#define EARLY 2
#define PAGE 3
const struct route routes[] = {
#define ROUTE(method, path, access, handler) {method, path, access, #handler, handler},
#include "serve/routes.def"
#undef ROUTE
};
const size_t routes_count = countof(routes);
#undef TOKEN

/* A connection, of which something is to arrive: libmicrohttpd's own time-out begins anew with each byte. */
struct arrival {
    struct arrival *next, **link;
    int fd;
    int64_t until; /* ms; 0: nothing is being waited for */
};
static struct arrival *arrivals;
static struct timer looker;

/*** Replies ***/

void
response_header(struct MHD_Response *r, const char *name, const char *value)
{
    if (MHD_add_response_header(r, name, value) != MHD_YES)
        log_debug("no header '%s: %s'", name, value);
}

void
answer_response(struct exchange *x, unsigned status, struct MHD_Response *response)
{
    const char *origin = x->server->options.allow_origin;

    if (!response)
        abort(); /* it fails without memory only */
    if (x->answered) {
        MHD_destroy_response(response);
        return;
    }
    if (origin) {
        response_header(response, "Access-Control-Allow-Origin", origin);
        response_header(response, "Access-Control-Allow-Headers", "accept, content-type, authorization, range");
        response_header(response, "Access-Control-Allow-Methods", "GET, PUT, POST, PATCH, DELETE, OPTIONS");
    }
    response_header(response, "Server", "husk/" HUSK_VERSION);
    response_header(response, "X-Content-Type-Options", "nosniff");
    if (status >= 400)
        x->server->count.refused++;
    x->answered = 1;
    x->status = status;
    x->response = response;
    if (x->suspended) {
        x->suspended = 0;
        MHD_resume_connection(x->connection);
        x->server->run_http = 1;
    }
}

void
answer_json_at(struct exchange *x, unsigned status, struct buf *json, const char *location)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(json->len, json->data, MHD_RESPMEM_MUST_FREE);

    *json = (struct buf){0}; /* libmicrohttpd frees it */
    if (!r)
        abort();
    response_header(r, "Content-Type", "application/json");
    response_header(r, "Content-Security-Policy", NO_PAGE);
    if (location)
        response_header(r, "Location", location);
    answer_response(x, status, r);
}

void
answer_json(struct exchange *x, unsigned status, struct buf *json)
{
    answer_json_at(x, status, json, NULL);
}

void
answer_error(struct exchange *x, unsigned status, const char *format, ...)
{
    struct buf json = {0};
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_debug("%s: %u %s", x->path ? x->path : "?", status, text);
    if (buf_text(&json, "{\"message\": ") < 0 || json_quote(bytes_of(text), &json) < 0 ||
        buf_text(&json, ", \"reason\": null}") < 0)
        abort();
    answer_json(x, status, &json);
}

void
answer_empty(struct exchange *x, unsigned status)
{
    answer_response(x, status, MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT));
}

/*** What was asked ***/

const char *
exchange_query(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *
exchange_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

int
exchange_object(struct exchange *x, struct bytes *ret)
{
    struct bytes body = {x->body.data, x->body.len};
    struct err err;

    if (body.len == 0) {
        *ret = BYTES("{}");
        return 0;
    }
    if (json_check_object(body, &err) < 0) {
        answer_error(x, 400, "Invalid JSON in body of request: %s", err.text);
        return -1;
    }
    *ret = body;
    return 0;
}

int
exchange_only(struct exchange *x, struct bytes object, const char *const *names)
{
    scoped(buf_release) struct buf list = {0};
    struct bytes name, value;
    size_t at = 0;

    for (size_t i = 0; names[i]; i++)
        if (buf_printf(&list, "%s%s", i ? ", " : "", names[i]) < 0)
            abort();
    while (json_next(object, &at, &name, &value) != J_NONE) {
        size_t i = 0;
        while (names[i] && !json_string_is(name, names[i]))
            i++;
        if (!names[i]) {
            answer_error(x, 400, "%.*s is not known here; there are: %s", (int)(name.len > 80 ? 80 : name.len),
                         (const char *)name.data, buf_string(&list));
            return -1;
        }
    }
    return 0;
}

/*** Who may ask ***/

/* In constant time, whatever is given. */
int
http_is_token(const struct server *s, const char *given)
{
    char padded[sizeof s->token] = "";

    if (!given || strlen(given) >= sizeof padded)
        return 0;
    memcpy(padded, given, strlen(given));
    return sodium_memcmp(padded, s->token, sizeof padded) == 0;
}

static int
knows_token(const struct exchange *x)
{
    static const char *const schemes[] = {"token ", "bearer "};
    const char *header = exchange_header(x, "Authorization");

    for (size_t i = 0; header && i < countof(schemes); i++) {
        size_t len = strlen(schemes[i]);
        if (strncasecmp(header, schemes[i], len) == 0 && http_is_token(x->server, header + len + strspn(header + len, " ")))
            return 1;
    }
    return http_is_token(x->server, exchange_query(x, "token"));
}

/* The name in a Host header, without its port. */
static int
host_name(const char *host, char *into, size_t size)
{
    const char *end = *host == '[' ? strchr(host, ']') : strchr(host, ':');
    size_t len = !end ? strlen(host) : *host == '[' ? (size_t)(end + 1 - host) : (size_t)(end - host);

    if (len == 0 || len >= size)
        return -1;
    memcpy(into, host, len);
    into[len] = 0;
    return 0;
}

/* Against a page whose name was made to mean this machine (DNS rebinding). */
static int
is_our_name(const struct server *s, const char *host)
{
    struct in_addr a;
    char name[256];

    if (!s->loopback || s->options.sock || !host)
        return 1;
    if (host_name(host, name, sizeof name) < 0)
        return 0;
    return strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0 ||
           (inet_pton(AF_INET, name, &a) == 1 && (ntohl(a.s_addr) >> 24) == 127) ||
           strv_has(&s->options.allow_host, name);
}

/* A browser says which page asks. Who knows the token is no page that was only opened in it. */
int
exchange_is_our_page(const struct exchange *x)
{
    const char *origin = exchange_header(x, "Origin"), *host = exchange_header(x, "Host"), *at,
               *allowed = x->server->options.allow_origin, *site = exchange_header(x, "Sec-Fetch-Site");

    if (!origin)
        return !site || strcmp(site, "cross-site") != 0;
    if (allowed && strcmp(allowed, origin) == 0)
        return 1;
    at = strstr(origin, "://");
    return at && host && strcasecmp(at + 3, host) == 0;
}

static void
check_access(struct exchange *x)
{
    struct server *s = x->server;
    const char *host = exchange_header(x, "Host");

    if (!is_our_name(s, host))
        answer_error(x, 403, "'%s' is not a name of this server (--allow-host)", host);
    else if (!*s->token && !exchange_is_our_page(x))
        answer_error(x, 403, "a page of another origin may not use this server (--allow-origin)");
    else if (!*s->token || x->route->access == OPEN || knows_token(x) || login_knows(x))
        return;
    else if (x->route->access == PAGE)
        login_ask(x);
    else
        answer_error(x, 403, "Forbidden");
}

/*** Routes ***/

/* Whether the path is one of this pattern; the segments are taken out of it. `copy` is changed. */
static int
matches(const char *pattern, char *copy, char **segment)
{
    size_t n = 0;

    for (;;) {
        pattern += *pattern == '/';
        copy += *copy == '/';
        if (strcmp(pattern, "**") == 0) {
            segment[n] = copy;
            return 1;
        }
        if (!*pattern || !*copy)
            return !*pattern && !*copy;
        size_t want = strcspn(pattern, "/"), have = strcspn(copy, "/");
        char *end = copy + have;
        if (*pattern == '*')
            segment[n++] = copy;
        else if (want != have || strncmp(pattern, copy, have) != 0)
            return 0;
        copy = end + (*end == '/');
        if (*end == '/' && *pattern == '*')
            *end = 0;
        pattern += want;
    }
}

/* A path that is there with another method is told from one that is not. */
static void
find_route(struct exchange *x, const char *url, const char *method)
{
    char allow[64] = "";

    while (url[0] == '/' && url[1] == '/') /* "http://host/" + "/api": see the clients' own joining */
        url++;
    if (!(x->path = strdup(url)))
        abort();
    for (size_t i = 0; i < countof(routes); i++) {
        char *segment[HTTP_SEGMENTS] = {0};
        strcpy(x->path, url);
        if (!matches(routes[i].path, x->path, segment))
            continue;
        if (strcmp(routes[i].method, strcmp(method, "HEAD") == 0 ? GET : method) == 0) {
            x->route = &routes[i];
            memcpy(x->segment, segment, sizeof segment);
            return;
        }
        snprintf(allow + strlen(allow), sizeof allow - strlen(allow), "%s%s", *allow ? ", " : "", routes[i].method);
    }
    strcpy(x->path, url);
    if (*allow && strcmp(method, "OPTIONS") == 0) {
        struct MHD_Response *r = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
        response_header(r, "Allow", allow);
        answer_response(x, 204, r);
    } else if (*allow) {
        answer_error(x, 405, "%s is not possible here; %s is", method, allow);
        response_header(x->response, "Allow", allow);
    } else {
        answer_error(x, 404, "Not Found");
    }
}

/*** libmicrohttpd's calls ***/

static struct arrival *
arrival_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info ? info->socket_context : NULL;
}

static void
on_connection(void *of, struct MHD_Connection *c, void **context, enum MHD_ConnectionNotificationCode what)
{
    struct arrival *a = *context;

    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (!(a = calloc(1, sizeof *a)))
            return;
        *a = (struct arrival){arrivals, &arrivals, info->connect_fd, now_ms() + HEADER_MS};
        if (a->next)
            a->next->link = &a->next;
        arrivals = a;
        *context = a;
    } else if (a) {
        *a->link = a->next;
        if (a->next)
            a->next->link = a->link;
        free(a);
        *context = NULL;
    }
}

static void
look_for_slow_ones(void *of)
{
    struct server *s = of;
    int64_t now = now_ms();

    for (struct arrival *a = arrivals; a; a = a->next)
        if (a->until && now > a->until)
            (void)shutdown(a->fd, SHUT_RDWR); /* libmicrohttpd closes it */
    loop_set(&s->loop, &looker, now + LOOK_MS);
}

static void *
on_line(void *of, const char *uri, struct MHD_Connection *c)
{
    struct exchange *x = calloc(1, sizeof *x);
    struct arrival *a = arrival_of(c);
    int64_t until = now_ms() + HEADER_MS;

    if (x)
        *x = (struct exchange){.server = of, .connection = c};
    if (a && (!a->until || a->until > until))
        a->until = until;
    return x;
}

static void
on_completed(void *of, struct MHD_Connection *c, void **con, enum MHD_RequestTerminationCode why)
{
    struct exchange *x = *con;
    struct arrival *a = arrival_of(c);

    if (!x)
        return;
    *con = NULL;
    if (a && x->status != MHD_HTTP_SWITCHING_PROTOCOLS) /* another request may be long in coming, its first line not */
        a->until = now_ms() + QUIET_S * 1000 + HEADER_MS;
    if (!x->answered && x->gone)
        x->gone(x);
    if (x->response && !x->queued)
        MHD_destroy_response(x->response);
    free(x->path);
    buf_release(&x->body);
    free(x);
}

static enum MHD_Result
queue(struct exchange *x)
{
    enum MHD_Result r = MHD_queue_response(x->connection, x->status, x->response);

    x->queued = 1;
    MHD_destroy_response(x->response);
    return r;
}

/* Bytes of a body; of who need not say who it is, those of a form. */
static size_t
most_of_body(const struct exchange *x)
{
    return x->route->access == OPEN ? FORM_MAX : x->server->options.max_body;
}

static void
handle(struct exchange *x)
{
    if (x->too_large) {
        answer_error(x, 413, "the body is too large (--max-body)");
    } else if (x->server->draining) {
        answer_error(x, 503, "the server is ending");
    } else {
        server_active(x->server);
        x->route->handle(x->server, x);
    }
}

static void
begin(struct exchange *x, const char *url, const char *method)
{
    const char *length = exchange_header(x, "Content-Length");
    struct arrival *a = arrival_of(x->connection);

    x->begun = 1;
    x->server->count.requests++;
    find_route(x, url, method);
    if (a)
        a->until = x->route && x->route->access == OPEN ? now_ms() + HEADER_MS : 0;
    if (!x->answered)
        check_access(x);
    if (!x->answered && x->route->access != EARLY && length && strtoull(length, NULL, 10) > most_of_body(x))
        answer_error(x, 413, "a body of %s bytes is too large (--max-body)", length);
    if (!x->answered && x->route->access == EARLY)
        handle(x);
}

static enum MHD_Result
on_request(void *of, struct MHD_Connection *c, const char *url, const char *method, const char *version,
           const char *data, size_t *size, void **con)
{
    struct exchange *x = *con;

    if (!x)
        return MHD_NO; /* no memory */
    if (!x->begun) {
        begin(x, url, method);
        return x->answered ? queue(x) : MHD_YES;
    }
    if (*size && x->take_data) {
        if (buf_add(&x->body, data, *size) < 0)
            return MHD_NO;
        *size = 0;
        /* Of a chunked body libmicrohttpd brings what it has read, even when it has been told to wait; and to put the
         * same connection aside twice would break its lists. */
        if (!x->paused && x->take_data(x)) {
            x->paused = 1;
            MHD_suspend_connection(c);
        }
        return MHD_YES;
    }
    if (*size) {
        if (x->body.len + *size > most_of_body(x))
            x->too_large = 1;
        else if (buf_add(&x->body, data, *size) < 0)
            return MHD_NO;
        *size = 0;
        return MHD_YES;
    }
    if (!x->answered && !x->ended) {
        x->ended = 1;
        if (arrival_of(c))
            arrival_of(c)->until = 0;
        if (x->take_end)
            x->take_end(x);
        else
            handle(x);
    }
    if (x->answered)
        return queue(x);
    x->suspended = 1;
    MHD_suspend_connection(c);
    return MHD_YES;
}

__attribute__((format(printf, 2, 0))) static void
on_log(void *of, const char *format, va_list args)
{
    char text[512];

    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    log_debug("http: %s", text);
}

void
exchange_go_on(struct exchange *x)
{
    if (!x->paused)
        return;
    x->paused = 0;
    MHD_resume_connection(x->connection);
    x->server->run_http = 1;
}

/*** Start and stop ***/

static void
on_ready(void *of, uint32_t events)
{
    ((struct server *)of)->run_http = 1;
}

/* One whose bytes come out of TLS. */
static void
on_tls(void *of, int fd)
{
    struct server *s = of;
    struct sockaddr none = {.sa_family = AF_UNIX};

    if (MHD_add_connection(s->http, fd, &none, sizeof none.sa_family) != MHD_YES)
        log_debug("http: no connection for one of TLS"); /* the descriptor is closed */
    s->run_http = 1;
}

static int
listen_for_tls(struct server *s, struct err *err)
{
    if (!s->options.certfile)
        return 0;
    s->tls = tls_start(&s->loop, s->listener, (size_t)s->options.max_connections, s->options.certfile,
                       s->options.keyfile, on_tls, s, err);
    return s->tls ? 0 : -1;
}

int
http_start(struct server *s, struct err *err)
{
    const union MHD_DaemonInfo *info;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_UPGRADE | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem plain[] = {{MHD_OPTION_LISTEN_SOCKET, s->listener, NULL}, {MHD_OPTION_END, 0, NULL}},
                          *more = s->options.certfile ? &plain[1] : plain;

    if (s->options.certfile)
        flags |= MHD_USE_NO_LISTEN_SOCKET;
    s->http = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->options.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)QUIET_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY, MHD_OPTION_URI_LOG_CALLBACK, on_line, s,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, more, MHD_OPTION_END);
    if (!s->http)
        return err_set(err, EIO, "libmicrohttpd does not start");
    info = MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_EPOLL_FD);
    s->http_source = (struct source){.fd = info->epoll_fd, .events = EPOLLIN, .ready = on_ready, .of = s};
    looker = (struct timer){.fire = look_for_slow_ones, .of = s};
    loop_set(&s->loop, &looker, now_ms() + LOOK_MS);
    return loop_add(&s->loop, &s->http_source, err) < 0 ? -1 : listen_for_tls(s, err);
}

void
http_stop(struct server *s)
{
    if (!s->http)
        return;
    loop_remove(&s->loop, &s->http_source);
    loop_set(&s->loop, &looker, 0);
    MHD_stop_daemon(s->http);
    s->http = NULL;
    tls_stop(s->tls); /* what it said last goes out */
    s->tls = NULL;
}

int
http_run(struct server *s)
{
    MHD_UNSIGNED_LONG_LONG ms;
    int64_t now = now_ms();

    if (s->run_http || (s->http_at && now >= s->http_at)) {
        s->run_http = 0;
        MHD_run(s->http);
    }
    s->http_at = 0;
    if (MHD_get_timeout(s->http, &ms) == MHD_YES)
        s->http_at = now + (ms > 60000 ? 60000 : (int64_t)ms);
    return s->run_http ? 0 : s->http_at ? (int)(s->http_at - now) : -1;
}
