/* SPDX-License-Identifier: BSD-3-Clause
 *
 * describe.c: what can be asked, as an OpenAPI document that is made from routes.def and wall/operations.def; and
 * what is going on, as Prometheus reads it.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/handlers.h"
#include "serve/kernels.h"
#include "wall/agent.h"

/*** OpenAPI ***/

static void
put(struct buf *b, const char *text)
{
    if (buf_text(b, text) < 0)
        abort();
}

static void
quote(struct buf *b, const char *text)
{
    if (json_quote(bytes_of(text), b) < 0)
        abort();
}

/* What the stars of a path stand for, in their order. */
static const char *
name_of(const char *path, int star)
{
    if (strcmp(path, star ? "/api/kernels/*/contents/**" : "/api/contents/**") == 0)
        return "path";
    if (strncmp(path, "/api/kernels/", 13) == 0)
        return star ? "operation" : "kernel_id";
    if (strncmp(path, "/api/sessions/", 14) == 0)
        return "session_id";
    return star ? "file" : "name";
}

/* Appends the path as OpenAPI has it, and says its parameters. */
static void
add_path(const char *path, struct buf *b, struct buf *parameters)
{
    int star = 0;

    for (const char *c = path; *c; c++) {
        if (*c != '*') {
            if (buf_add(b, c, 1) < 0)
                abort();
            continue;
        }
        c += c[1] == '*';
        if (buf_printf(b, "{%s}", name_of(path, star)) < 0 ||
            buf_printf(parameters, "%s{\"name\": \"%s\", \"in\": \"path\", \"required\": true, \"schema\": {\"type\": \"string\"}}",
                       parameters->len ? ", " : "", name_of(path, star)) < 0)
            abort();
        star++;
    }
}

static const char *
schema_of(struct bytes type)
{
    static const struct {
        const char *type, *schema;
    } rows[] = {{"int", "{\"type\": \"integer\"}"}, {"bool", "{\"type\": \"boolean\"}"},
                {"map", "{\"type\": \"object\", \"additionalProperties\": {\"type\": \"string\"}}"},
                {"command", "{\"oneOf\": [{\"type\": \"string\"}, {\"type\": \"array\", \"items\": {\"type\": \"string\"}}]}"}};

    for (size_t i = 0; i < countof(rows); i++)
        if (bytes_equal(type, rows[i].type))
            return rows[i].schema;
    return "{\"type\": \"string\"}";
}

static void
add_parameters(const struct operation *op, struct buf *b)
{
    scoped(buf_release) struct buf required = {0};
    const char *at = NULL;
    struct parameter p;
    int n = 0;

    put(b, "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {");
    for (; parameter_next(op, &at, &p); n++) {
        if (buf_printf(b, "%s\"%.*s\": %s", n ? ", " : "", (int)p.name.len, (const char *)p.name.data,
                       schema_of(p.type)) < 0 ||
            (p.required && buf_printf(&required, "%s\"%.*s\"", required.len ? ", " : "", (int)p.name.len,
                                      (const char *)p.name.data) < 0))
            abort();
    }
    put(b, "}");
    if (required.len && buf_printf(b, ", \"required\": [%s]", buf_string(&required)) < 0)
        abort();
    put(b, "}");
}

static void
add_operation(const struct operation *op, struct buf *b)
{
    if (buf_printf(b, ", \"/api/kernels/{kernel_id}/sandbox/%s\": {\"post\": {\"operationId\": \"%s\", \"summary\": ",
                   op->name, op->name) < 0)
        abort();
    quote(b, op->meaning);
    put(b, ", \"parameters\": [{\"name\": \"kernel_id\", \"in\": \"path\", \"required\": true, \"schema\": {\"type\": \"string\"}}, "
           "{\"name\": \"stream\", \"in\": \"query\", \"schema\": {\"type\": \"boolean\"}, \"description\": \"lines of JSON: events, then the result\"}], "
           "\"requestBody\": {\"content\": {\"application/json\": {\"schema\": ");
    add_parameters(op, b);
    put(b, "}}}, \"responses\": {\"200\": {\"description\": ");
    quote(b, *op->result ? op->result : "done");
    put(b, "}, \"default\": {\"description\": \"message, code and suggestion\"}}}}");
}

/* Methods of one path stand together in the table. */
static void
add_routes(struct buf *b)
{
    const char *path = NULL;

    for (size_t i = 0; i < routes_count; i++) {
        const struct route *r = &routes[i];
        scoped(buf_release) struct buf parameters = {0}, as_openapi = {0};
        char method[16];
        add_path(r->path, &as_openapi, &parameters);
        for (size_t j = 0; j < sizeof method; j++)
            if (!(method[j] = (char)tolower((unsigned char)r->method[j])))
                break;
        if (path && strcmp(path, r->path) == 0)
            put(b, ", ");
        else if (buf_printf(b, "%s\"%s\": {", path ? "}, " : "", buf_string(&as_openapi)) < 0)
            abort();
        path = r->path;
        if (buf_printf(b, "\"%s\": {\"operationId\": \"%s\", \"parameters\": [%s], \"responses\": {\"default\": "
                          "{\"description\": \"as Jupyter Server's\"}}}", method, r->name,
                       parameters.len ? buf_string(&parameters) : "") < 0)
            abort();
    }
    put(b, "}");
}

void
get_spec(struct server *s, struct exchange *x)
{
    struct buf b = {0};

    put(&b, "{\"openapi\": \"3.1.0\", \"info\": {\"title\": \"husk serve\", \"version\": \"" HUSK_VERSION "\"}, "
            "\"security\": [{\"token\": []}], \"components\": {\"securitySchemes\": {\"token\": {\"type\": \"http\", "
            "\"scheme\": \"bearer\"}}}, \"paths\": {");
    add_routes(&b);
    for (size_t i = 0; i < operations_count; i++)
        add_operation(&operations[i], &b);
    put(&b, "}}");
    answer_json(x, 200, &b);
}

/*** Prometheus ***/

static size_t
count_state(struct server *s, enum served_state state)
{
    size_t n = 0;

    for (const struct served *k = served_next(s, NULL); k; k = served_next(s, k))
        n += k->state == state;
    return n;
}

void
get_metrics(struct server *s, struct exchange *x)
{
    static const char *const states[] = {"starting", "idle", "busy", "restarting", "dead"};
    const struct {
        const char *name, *help;
        uint64_t value;
    } counters[] = {
        {"husk_http_requests_total", "requests of HTTP", s->count.requests},
        {"husk_http_refused_total", "those that were answered with an error", s->count.refused},
        {"husk_kernels_started_total", "kernels that were started", s->count.kernels_started},
        {"husk_kernels_failed_total", "those that did not come up", s->count.kernels_failed},
        {"husk_kernels_died_total", "those that ended and were not asked to", s->count.kernels_died},
        {"husk_websockets_total", "WebSockets that were opened", s->count.websockets},
        {"husk_messages_in_total", "messages of clients", s->count.messages_in},
        {"husk_messages_out_total", "messages to clients", s->count.messages_out},
        {"husk_bytes_out_total", "bytes of messages to clients", s->count.bytes_out},
        {"husk_slow_clients_total", "times that a client did not read", s->count.slow_clients},
    };
    struct MHD_Response *r;
    struct buf b = {0};
    int bad = buf_text(&b, "# HELP husk_kernels kernels by state\n# TYPE husk_kernels gauge\n") < 0;

    for (size_t i = 0; i < countof(states); i++)
        bad = bad || buf_printf(&b, "husk_kernels{state=\"%s\"} %zu\n", states[i], count_state(s, (enum served_state)i)) < 0;
    bad = bad || buf_printf(&b, "# HELP husk_connections open WebSockets\n# TYPE husk_connections gauge\n"
                                "husk_connections %zu\n", s->count.sockets) < 0;
    for (size_t i = 0; i < countof(counters); i++)
        bad = bad || buf_printf(&b, "# HELP %s %s\n# TYPE %s counter\n%s %llu\n", counters[i].name, counters[i].help,
                                counters[i].name, counters[i].name, (unsigned long long)counters[i].value) < 0;
    if (bad)
        abort();
    r = MHD_create_response_from_buffer(b.len, b.data, MHD_RESPMEM_MUST_FREE);
    response_header(r, "Content-Type", "text/plain; version=0.0.4");
    answer_response(x, 200, r);
}
