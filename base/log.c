/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *program = "husk";
static enum log_level limit = LOG_WARNING;
static int as_json;
static const char *const names[] = {"error", "warning", "info", "debug"};

void
log_open(const char *name, enum log_level level)
{
    program = name;
    limit = level;
}

void
log_as_json(void)
{
    as_json = 1;
}

/* In place; there is room for twice as much. Only what would end a string is escaped: control characters are gone. */
static void
make_json(char *line, size_t size, enum log_level level, const char *message)
{
    struct timespec t;
    struct tm tm;
    size_t len;

    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    len = strftime(line, size, "{\"time\":\"%Y-%m-%dT%H:%M:%S", &tm);
    len += (size_t)snprintf(line + len, size - len, ".%03ldZ\",\"level\":\"%s\",\"message\":\"", t.tv_nsec / 1000000,
                            names[level]);
    for (; *message && len + 5 < size; message++) {
        if (*message == '"' || *message == '\\')
            line[len++] = '\\';
        line[len++] = *message;
    }
    memcpy(line + len, "\"}", 3);
}

int
log_level_parse(const char *text)
{
    for (int i = 0; i <= LOG_DEBUG; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -1;
}

int
log_wants(enum log_level level)
{
    return level <= limit;
}

void
log_line(enum log_level level, const char *format, ...)
{
    char line[1024], json[2 * sizeof line + 128], *out = line;
    va_list args;
    int saved = errno, len;

    if (!log_wants(level))
        return;
    len = snprintf(line, sizeof line, "%s: %s", program, level == LOG_DEBUG ? "debug: " : "");
    va_start(args, format);
    vsnprintf(line + len, sizeof line - (size_t)len - 1, format, args);
    va_end(args);
    len = (int)strlen(line);
    /* Some text comes from the sandbox: a control character must not reach a terminal. */
    for (int i = 0; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    if (as_json) {
        make_json(json, sizeof json - 1, level, line + strlen(program) + 2);
        out = json;
        len = (int)strlen(json);
    }
    out[len++] = '\n';
    /* One write, so that lines of several processes do not mix; a full disk is not our event. */
    if (write(STDERR_FILENO, out, (size_t)len) < 0)
        errno = saved;
    errno = saved;
}
