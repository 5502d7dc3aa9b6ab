/* Leveled log lines on stderr: "<level> <unit>: message".
 *
 * The level comes from RAMET_LOG (error, warn, info, debug; default info). A
 * line is written with one write(2), so lines of several processes that share
 * a stderr do not mix. Nothing a guest or client sent is logged unescaped. */
#ifndef RAMET_LIB_LOG_H
#define RAMET_LIB_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Names the process in its lines; `unit` must outlive it. */
void log_init(const char *unit);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
