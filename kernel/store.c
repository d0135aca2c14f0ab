/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"

#define BUSY_MS 2000       /* another kernel writes: so long is waited for it */
#define RETRY_MS 10000     /* a file that could not be written is left alone for so long */
#define PRUNE_EVERY 200    /* writes */
#define TAIL_STANDARD 10   /* lines, as IPython */

struct store {
    char *path; /* NULL: no file */
    sqlite3 *db;
    int shared;        /* 1: `main` is the file */
    int64_t session;   /* number of this one; 0: not numbered yet */
    int warned;
    int64_t retry;     /* ms: when the file may be tried again; 0: now */
    unsigned writes;
};

/*** SQL ***/

static void
warn(struct store *s, const char *what)
{
    if (!s->warned)
        log_warning("history: '%s': %s: %s", s->path ? s->path : "memory", what, sqlite3_errmsg(s->db));
    s->warned = 1;
}

static int
run(struct store *s, const char *sql)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL);
}

static int64_t
number(struct store *s, const char *sql)
{
    sqlite3_stmt *q = NULL;
    int64_t n = 0;

    if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW)
        n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return n;
}

/* The same tables as IPython's, so that its tools read them. `now` is this session. */
static const char file_schema[] =
    "CREATE TABLE IF NOT EXISTS main.sessions (session INTEGER PRIMARY KEY AUTOINCREMENT,"
    " start TIMESTAMP, end TIMESTAMP, num_cmds INTEGER, remark TEXT);"
    "CREATE TABLE IF NOT EXISTS main.history (session INTEGER, line INTEGER, source TEXT,"
    " source_raw TEXT, PRIMARY KEY (session, line));";
static const char memory_schema[] =
    "ATTACH ':memory:' AS now;"
    "CREATE TABLE now.history (line INTEGER PRIMARY KEY, source TEXT, source_raw TEXT, output TEXT,"
    " fresh INTEGER DEFAULT 1);";

/*** The file ***/

static int
is_damage(int code)
{
    return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB;
}

/* Opens `path`, or memory. A result code of SQLite; the schema is there if it is SQLITE_OK. */
static int
open_main(const char *path, sqlite3 **ret)
{
    int code = sqlite3_open_v2(path ? path : ":memory:", ret,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);

    if (code != SQLITE_OK)
        return code;
    sqlite3_busy_timeout(*ret, BUSY_MS);
    /* No write-ahead log: homes lie on network file systems, where its shared memory does not work. */
    code = sqlite3_exec(*ret, "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=TRUNCATE;"
                              "PRAGMA synchronous=NORMAL; PRAGMA trusted_schema=OFF;", NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(*ret, file_schema, NULL, NULL, NULL);
    if (code == SQLITE_OK) /* reads a page of each table: damage is found now */
        code = sqlite3_exec(*ret, "SELECT count(*) FROM main.sessions WHERE session > 0;"
                                  "SELECT max(line) FROM main.history WHERE session ="
                                  " (SELECT max(session) FROM main.history)", NULL, NULL, NULL);
    return code;
}

/* Of several kernels that find the damage at once, one puts the file aside. */
static void
put_aside(const char *path)
{
    char lock_path[4200], aside[4200];
    sqlite3 *db = NULL;
    scoped(fd_close) int lock = -1;

    snprintf(lock_path, sizeof lock_path, "%s.lock", path);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0 || flock(lock, LOCK_EX) < 0)
        return;
    if (is_damage(open_main(path, &db))) {
        log_warning("history: '%s' is damaged; it is now '%s', and a new one is begun", path, aside);
        (void)rename(path, aside);
        snprintf(aside, sizeof aside, "%s-journal", path);
        (void)unlink(aside);
    }
    sqlite3_close(db);
}

static int
make_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

/* Whatever happens there is a database afterwards, if only in memory. -1 without memory for that. */
static int
open_store(struct store *s)
{
    int code = SQLITE_OK;

    s->shared = 0;
    for (int tries = 0; s->path && tries < 2; tries++) {
        if (make_file(s->path) < 0) {
            log_warning("history: '%s': %s; this session is kept in memory", s->path, strerror(errno));
            break;
        }
        code = open_main(s->path, &s->db);
        s->shared = code == SQLITE_OK;
        if (!is_damage(code))
            break;
        sqlite3_close(s->db);
        s->db = NULL;
        put_aside(s->path);
    }
    if (!s->shared) {
        if (s->db)
            warn(s, "it cannot be opened; this session is kept in memory");
        sqlite3_close(s->db);
        s->db = NULL;
        if (open_main(NULL, &s->db) != SQLITE_OK)
            return -1;
    }
    return run(s, memory_schema) == SQLITE_OK ? 0 : -1;
}

struct store *
store_new(const char *path)
{
    struct store *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    if (path && !(s->path = strdup(path))) {
        free(s);
        return NULL;
    }
    if (open_store(s) < 0) {
        store_free(s);
        return NULL;
    }
    return s;
}

static void
end_session(struct store *s)
{
    char sql[200];

    if (!s->shared || !s->session)
        return;
    snprintf(sql, sizeof sql,
             "UPDATE main.sessions SET end = datetime('now', 'localtime'), num_cmds ="
             " (SELECT count(*) FROM now.history) WHERE session = %lld", (long long)s->session);
    (void)run(s, sql);
}

void
store_free(struct store *s)
{
    if (!s)
        return;
    if (s->db) {
        s->retry = 0; /* there is no later */
        store_write(s);
        end_session(s);
    }
    sqlite3_close(s->db);
    free(s->path);
    free(s);
}

/*** Writing ***/

/* A number of this session's own. In a transaction. */
static int
begin_session(struct store *s)
{
    int code;

    if (s->session)
        return SQLITE_OK;
    code = run(s, "INSERT INTO main.sessions (start) VALUES (datetime('now', 'localtime'))");
    if (code == SQLITE_OK)
        s->session = sqlite3_last_insert_rowid(s->db);
    return code;
}

/* The oldest tenth goes, until the rest is within the bounds. */
static void
prune(struct store *s)
{
    for (int i = 0; i < 20; i++) {
        int64_t lines = number(s, "SELECT count(*) FROM main.history");
        int64_t pages = number(s, "PRAGMA main.page_count") - number(s, "PRAGMA main.freelist_count");

        if (lines <= STORE_LINES && pages * number(s, "PRAGMA main.page_size") <= STORE_BYTES)
            return;
        if (run(s, "DELETE FROM main.history WHERE rowid IN (SELECT rowid FROM main.history"
                   " ORDER BY session, line LIMIT (SELECT count(*) / 10 + 1 FROM main.history));"
                   "DELETE FROM main.sessions WHERE session <"
                   " (SELECT min(session) FROM main.history); PRAGMA main.incremental_vacuum") != SQLITE_OK)
            return;
    }
}

static int
write_lines(struct store *s)
{
    int64_t before = s->session;
    char sql[400];
    int code = run(s, "BEGIN IMMEDIATE");

    if (code == SQLITE_OK)
        code = begin_session(s);
    snprintf(sql, sizeof sql,
             "INSERT OR REPLACE INTO main.history SELECT %lld, line, source, source_raw"
             " FROM now.history WHERE fresh; UPDATE now.history SET fresh = 0 WHERE fresh; COMMIT",
             (long long)s->session);
    if (code == SQLITE_OK)
        code = run(s, sql);
    if (code == SQLITE_OK)
        return code;
    if (!sqlite3_get_autocommit(s->db))
        (void)run(s, "ROLLBACK");
    s->session = before;
    return code;
}

/* The file is gone or broken: a new one gets this session, under a new number. */
static void
begin_again(struct store *s)
{
    scoped(str_free) char *path = strdup(s->path);
    sqlite3 *old = s->db;
    struct store fresh = {.path = path, .warned = s->warned};
    sqlite3_stmt *from = NULL, *into = NULL;

    if (!path || open_store(&fresh) < 0)
        return;
    if (sqlite3_prepare_v2(old, "SELECT line, source, source_raw, output FROM now.history", -1, &from, NULL) ==
            SQLITE_OK &&
        sqlite3_prepare_v2(fresh.db, "INSERT INTO now.history VALUES (?, ?, ?, ?, 1)", -1, &into, NULL) ==
            SQLITE_OK)
        while (sqlite3_step(from) == SQLITE_ROW) {
            for (int i = 0; i < 4; i++)
                sqlite3_bind_value(into, i + 1, sqlite3_column_value(from, i));
            sqlite3_step(into);
            sqlite3_reset(into);
        }
    sqlite3_finalize(from);
    sqlite3_finalize(into);
    sqlite3_close(old);
    s->db = fresh.db;
    s->shared = fresh.shared;
    s->warned = fresh.warned;
    s->session = 0;
}

void
store_write(struct store *s)
{
    int code;

    if (!s->shared || (s->retry && now_ms() < s->retry) ||
        number(s, "SELECT count(*) FROM now.history WHERE fresh") == 0)
        return;
    code = write_lines(s);
    if (is_damage(code)) {
        put_aside(s->path);
        begin_again(s);
        code = s->shared ? write_lines(s) : SQLITE_OK;
    }
    s->retry = code == SQLITE_OK ? 0 : now_ms() + RETRY_MS;
    if (code != SQLITE_OK)
        warn(s, "it cannot be written; what is entered is kept in memory meanwhile");
    else if (s->writes++ % PRUNE_EVERY == 0)
        prune(s);
}

/* An accepted JSON string, without line ends at its end. */
static int
bind_json(sqlite3_stmt *q, int at, struct bytes json)
{
    scoped(buf_release) struct buf text = {0};

    if (json_unescape(json, &text) < 0)
        return SQLITE_NOMEM;
    while (text.len && text.data[text.len - 1] == '\n')
        text.len--;
    return sqlite3_bind_text(q, at, text.len ? (char *)text.data : "", (int)text.len, SQLITE_TRANSIENT);
}

static void
change(struct store *s, const char *sql, uint32_t line, struct bytes text)
{
    sqlite3_stmt *q = NULL;

    if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) != SQLITE_OK ||
        sqlite3_bind_int64(q, 1, line) != SQLITE_OK || bind_json(q, 2, text) != SQLITE_OK ||
        sqlite3_step(q) != SQLITE_DONE)
        warn(s, "a line is lost");
    sqlite3_finalize(q);
}

void
store_add(struct store *s, uint32_t line, struct bytes code)
{
    if (code.len > STORE_LINE)
        return;
    change(s, "INSERT OR REPLACE INTO now.history (line, source, source_raw) VALUES (?1, ?2, ?2)", line,
           code);
    if (line > STORE_SESSION_LINES)
        change(s, "DELETE FROM now.history WHERE NOT fresh AND line <= ?1 AND ?2 IS NOT NULL",
               line - STORE_SESSION_LINES, BYTES("\"\""));
}

void
store_set_source(struct store *s, uint32_t line, struct bytes code)
{
    if (code.len <= STORE_LINE)
        change(s, "UPDATE now.history SET source = ?2, fresh = 1 WHERE line = ?1", line, code);
}

void
store_set_output(struct store *s, uint32_t line, struct bytes text)
{
    if (text.len <= STORE_OUTPUT)
        change(s, "UPDATE now.history SET output = ?2 WHERE line = ?1", line, text);
}

void
store_next_session(struct store *s)
{
    store_write(s);
    end_session(s);
    (void)run(s, "DELETE FROM now.history");
    s->session = 0;
}

/*** Answers ***/

struct query {
    int64_t session, start, stop, n; /* n < 0: all; stop 0: to the end */
    int raw, output, unique;
    struct buf pattern;
    int newest_first;
};

static int64_t
number_of(struct bytes request, const char *name, int64_t standard)
{
    struct bytes value;
    int64_t n;

    if (json_get(request, name, &value) != J_NUMBER || json_int64(value, &n) < 0)
        return standard;
    return n;
}

/* All lines, those of this session under `session`. What of it is not in memory any more is in the
 * file. */
static int
add_lines(struct store *s, int64_t session, struct buf *sql)
{
    int64_t first = number(s, "SELECT min(line) FROM now.history");

    return buf_printf(sql,
                      "(SELECT session, line, source, source_raw, NULL AS output FROM main.history"
                      " WHERE session <> %lld OR line < %lld"
                      " UNION ALL SELECT %lld, line, source, source_raw, output FROM now.history)",
                      (long long)session, (long long)first, (long long)session);
}

static int
add_query(struct store *s, struct bytes request, struct query *q, struct buf *sql)
{
    const char *text = q->raw ? "source_raw" : "source";
    int64_t present = s->session;
    struct bytes type;

    if (!present)
        present = number(s, "SELECT seq + 1 FROM main.sqlite_sequence WHERE name = 'sessions'");
    if (!present)
        present = 1;
    json_get(request, "hist_access_type", &type);
    if (buf_printf(sql, "SELECT session, line, %s, output%s FROM ", text,
                   q->unique ? ", max(session * 4294967296 + line)" : "") < 0 ||
        add_lines(s, present, sql) < 0)
        return -1;
    if (json_string_is(type, "range")) {
        q->n = -1;
        if (q->session < 0)
            q->session += present;
        return buf_printf(sql, " WHERE session = %lld AND line >= %lld AND line < %lld ORDER BY line",
                          (long long)(q->session ? q->session : present), (long long)q->start,
                          (long long)(q->stop ? q->stop : INT64_MAX));
    }
    q->newest_first = 1;
    if (json_string_is(type, "search"))
        return buf_printf(sql, " WHERE source_raw GLOB ?1%s ORDER BY session DESC, line DESC LIMIT %lld",
                          q->unique ? " GROUP BY source_raw" : "", (long long)q->n);
    /* Of other kernels that began later, only what this session leaves room for. */
    return buf_printf(sql, " ORDER BY session = %lld DESC, session DESC, line DESC LIMIT %lld",
                      (long long)present, (long long)q->n);
}

static int
add_text(sqlite3_stmt *st, int column, struct buf *ret)
{
    struct bytes text = {sqlite3_column_blob(st, column), (size_t)sqlite3_column_bytes(st, column)};

    if (sqlite3_column_type(st, column) == SQLITE_NULL)
        return buf_text(ret, "null");
    return json_quote(text, ret);
}

static int
add_row(const struct query *q, sqlite3_stmt *st, struct buf *ret)
{
    int64_t session = sqlite3_column_int64(st, 0);

    if (buf_printf(ret, "[%lld,%lld,%s", (long long)session, (long long)sqlite3_column_int64(st, 1),
                   q->output ? "[" : "") < 0 ||
        add_text(st, 2, ret) < 0)
        return -1;
    if (!q->output)
        return buf_text(ret, "]");
    return buf_text(ret, ",") < 0 || add_text(st, 3, ret) < 0 ? -1 : buf_text(ret, "]]");
}

/* Rows in `rows`, one after the other, ending where `ends` says; the list has them oldest first. */
static int
join_rows(const struct query *q, const struct buf *rows, const size_t *ends, size_t n, struct buf *ret)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = q->newest_first ? n - 1 - i : i, start = at ? ends[at - 1] : 0;
        if ((i && buf_text(ret, ",") < 0) || buf_add(ret, rows->data + start, ends[at] - start) < 0)
            return -1;
    }
    return 0;
}

static int
collect(struct store *s, struct query *q, const char *sql, struct buf *ret)
{
    scoped(buf_release) struct buf rows = {0}, ends = {0};
    sqlite3_stmt *st = NULL;
    int code = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL), bad = 0;

    if (code == SQLITE_OK && sqlite3_bind_parameter_count(st))
        sqlite3_bind_text(st, 1, q->pattern.len ? (char *)q->pattern.data : "", (int)q->pattern.len,
                          SQLITE_STATIC);
    while (code == SQLITE_OK && !bad && rows.len < STORE_ANSWER && (code = sqlite3_step(st)) == SQLITE_ROW) {
        bad = add_row(q, st, &rows) < 0 || buf_add(&ends, &rows.len, sizeof rows.len) < 0;
        code = SQLITE_OK;
    }
    if (code != SQLITE_OK && code != SQLITE_DONE)
        warn(s, "it cannot be read");
    sqlite3_finalize(st);
    if (bad || buf_text(ret, "[") < 0 ||
        join_rows(q, &rows, (const size_t *)(const void *)ends.data, ends.len / sizeof(size_t), ret) < 0)
        return -1;
    return buf_text(ret, "]");
}

int
store_answer(struct store *s, struct bytes request, struct buf *ret)
{
    scoped(buf_release) struct buf sql = {0}, pattern = {0};
    struct bytes type, value;
    struct query q = {.session = number_of(request, "session", 0), .start = number_of(request, "start", 0),
                      .stop = number_of(request, "stop", 0), .n = number_of(request, "n", -1),
                      .raw = json_get(request, "raw", &value) != J_FALSE,
                      .output = json_get(request, "output", &value) == J_TRUE};

    json_get(request, "hist_access_type", &type);
    q.unique = json_string_is(type, "search") && json_get(request, "unique", &value) == J_TRUE;
    if (json_string_is(type, "tail") && q.n < 0)
        q.n = TAIL_STANDARD;
    if (json_get(request, "pattern", &value) == J_STRING ? json_unescape(value, &pattern) < 0
                                                         : buf_text(&pattern, "*") < 0)
        return -1;
    q.pattern = pattern;
    store_write(s); /* so that this session has its number */
    if (add_query(s, request, &q, &sql) < 0 || !buf_string(&sql))
        return -1;
    return collect(s, &q, (const char *)sql.data, ret);
}
