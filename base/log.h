/* SPDX-License-Identifier: BSD-3-Clause
 *
 * log.h: one line per event on stderr, "husk: ...". Jupyter servers keep a kernel's stderr in
 * their log, and VS Code shows its last line as the reason of a death: the line must make
 * sense alone. Cell contents are never logged above debug; a key is never logged.
 */
#pragma once

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

void log_open(const char *program, enum log_level level);
void log_as_json(void); /* {"time", "level", "message"} in each line */
int log_level_parse(const char *text); /* "error" ... "debug"; -1 if it is none */
int log_wants(enum log_level level);
void log_line(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                         \
    do {                                                                                       \
        if (log_wants(LOG_DEBUG))                                                              \
            log_line(LOG_DEBUG, __VA_ARGS__);                                                  \
    } while (0)
