/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/login.h"

#include <ctype.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/handlers.h"

#define XSRF "_xsrf"
#define XSRF_BYTES 16
#define FIELD_MAX 512

static const char form[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>husk</title><p>%s</p><form method=\"post\">"
    "<input type=\"hidden\" name=\"_xsrf\" value=\"%s\"><label>Token <input type=\"password\" name=\"password\" autofocus></label> "
    "<button>Log in</button></form></html>\n";

static const char page[] = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>husk</title>"
                           "<p>Kernels are served here; there are no pages.</p></html>\n";

/*** Cookies ***/

void
login_start(struct server *s)
{
    uint8_t random[24];

    randombytes_buf(random, sizeof random);
    sodium_bin2hex(s->session, sizeof s->session, random, sizeof random);
}

/* Of this name and port: cookies are not kept apart by port. */
static void
name_session(const struct exchange *x, char into[static 80])
{
    const char *host = exchange_header(x, "Host");

    snprintf(into, 80, "username-%s", host ? host : "");
    for (char *c = into; *c; c++)
        if (!isalnum((unsigned char)*c))
            *c = '-';
}

static const char *
cookie(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_COOKIE_KIND, name);
}

static int
is_same(const char *a, const char *b)
{
    return a && b && *a && strlen(a) == strlen(b) && sodium_memcmp(a, b, strlen(a)) == 0;
}

int
login_knows(const struct exchange *x)
{
    const char *method = x->route->method, *given = exchange_header(x, "X-XSRFToken");
    char name[80];

    name_session(x, name);
    if (!is_same(cookie(x, name), x->server->session) || !exchange_is_our_page(x))
        return 0;
    return strcmp(method, "GET") == 0 || is_same(given, cookie(x, XSRF));
}

static void
set_cookie(const struct exchange *x, struct MHD_Response *r, const char *name, const char *value)
{
    char text[256];

    snprintf(text, sizeof text, "%s=%s; Path=/; SameSite=Lax%s%s", name, value, strcmp(name, XSRF) == 0 ? "" : "; HttpOnly",
             x->server->options.certfile ? "; Secure" : "");
    response_header(r, "Set-Cookie", text);
}

/*** Pages ***/

static void
answer_page(struct exchange *x, unsigned status, struct MHD_Response *r)
{
    response_header(r, "Content-Type", "text/html; charset=utf-8");
    response_header(r, "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; form-action 'self'");
    response_header(r, "Cache-Control", "no-store");
    answer_response(x, status, r);
}

static struct MHD_Response *
make_redirect(const char *where)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);

    if (!r)
        abort();
    response_header(r, "Location", where);
    return r;
}

void
login_ask(struct exchange *x)
{
    char where[80];

    snprintf(where, sizeof where, "/login?next=%%2F%s", x->route->path + 1); /* a path of routes.def without stars */
    answer_page(x, 302, make_redirect(where));
}

static void
show_form(struct exchange *x, unsigned status, const char *said)
{
    char xsrf[2 * XSRF_BYTES + 1];
    uint8_t random[XSRF_BYTES];
    struct MHD_Response *r;
    struct buf b = {0};

    randombytes_buf(random, sizeof random);
    sodium_bin2hex(xsrf, sizeof xsrf, random, sizeof random);
    if (buf_printf(&b, form, said, xsrf) < 0)
        abort();
    r = MHD_create_response_from_buffer(b.len, b.data, MHD_RESPMEM_MUST_FREE);
    if (!r)
        abort();
    set_cookie(x, r, XSRF, xsrf);
    answer_page(x, status, r);
}

/* Where to after the form: a page of our own that there is. */
static const char *
next_page(const struct exchange *x)
{
    const char *next = exchange_query(x, "next");

    return next && strcmp(next, "/lab") == 0 ? "/lab" : "/tree";
}

void
get_login(struct server *s, struct exchange *x)
{
    if (!*s->token)
        answer_page(x, 302, make_redirect(next_page(x)));
    else
        show_form(x, 200, "This server asks for its token.");
}

/* A field of a form (application/x-www-form-urlencoded). "": it is not there, or too long. */
static void
take_field(struct exchange *x, const char *name, char into[static FIELD_MAX])
{
    const char *at = buf_string(&x->body);
    size_t len = strlen(name);

    *into = 0;
    if (!at)
        abort();
    while (*at) {
        size_t end = strcspn(at, "&");
        if (end > len && end - len < FIELD_MAX && strncmp(at, name, len) == 0 && at[len] == '=') {
            memcpy(into, at + len + 1, end - len - 1);
            into[end - len - 1] = 0;
            for (char *c = into; *c; c++)
                if (*c == '+')
                    *c = ' ';
            MHD_http_unescape(into);
            return;
        }
        at += end + (at[end] == '&');
    }
}

void
post_login(struct server *s, struct exchange *x)
{
    char password[FIELD_MAX], xsrf[FIELD_MAX], name[80];
    struct MHD_Response *r;

    take_field(x, "password", password);
    take_field(x, XSRF, xsrf);
    if (!*xsrf && exchange_header(x, "X-XSRFToken"))
        snprintf(xsrf, sizeof xsrf, "%s", exchange_header(x, "X-XSRFToken"));
    if (*s->token && (!is_same(xsrf, cookie(x, XSRF)) || !exchange_is_our_page(x))) {
        answer_error(x, 403, "'_xsrf' argument missing from POST, or not what the form said");
    } else if (*s->token && !http_is_token(s, password)) {
        show_form(x, 401, "That is not its token.");
    } else {
        r = make_redirect(next_page(x));
        name_session(x, name);
        if (*s->token)
            set_cookie(x, r, name, s->session);
        answer_page(x, 302, r);
    }
    sodium_memzero(password, sizeof password);
}

static void
show_page(struct exchange *x)
{
    answer_page(x, 200, MHD_create_response_from_buffer(sizeof page - 1, (void *)page, MHD_RESPMEM_PERSISTENT));
}

void
get_tree(struct server *s, struct exchange *x)
{
    show_page(x);
}

void
get_lab(struct server *s, struct exchange *x)
{
    show_page(x);
}
