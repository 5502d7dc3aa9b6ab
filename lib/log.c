/* Log lines on stderr: see log.h. */
#include "lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const level_names[] = { "error", "warn", "info", "debug" };
static const char *log_unit = "ramet";
static enum log_level log_limit = LOG_LEVEL_INFO;

void log_init(const char *unit)
{
	const char *level = getenv("RAMET_LOG");

	log_unit = unit;
	for (int i = LOG_LEVEL_ERROR; level && i <= LOG_LEVEL_DEBUG; i++)
		if (!strcmp(level, level_names[i]))
			log_limit = (enum log_level)i;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int len;

	if (level > log_limit)
		return;
	len = snprintf(line, sizeof(line), "%s %s: ", level_names[level], log_unit);
	va_start(ap, fmt);
	len += vsnprintf(line + len, sizeof(line) - (size_t)len, fmt, ap);
	va_end(ap);
	if (len >= (int)sizeof(line))
		len = (int)sizeof(line) - 1;
	for (int i = 0; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		return; /* nowhere left to report to */
}
