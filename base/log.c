/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *program = "husk";
static enum log_level limit = LOG_WARNING;
static const char *const names[] = {"error", "warning", "info", "debug"};

void
log_open(const char *name, enum log_level level)
{
    program = name;
    limit = level;
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
    char line[1024];
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
    line[len++] = '\n';
    /* One write, so that lines of several processes do not mix; a full disk is not our event. */
    if (write(STDERR_FILENO, line, (size_t)len) < 0)
        errno = saved;
    errno = saved;
}
