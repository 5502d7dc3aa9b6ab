/* A request target, taken apart and percent-decoded (RFC 3986, RFC 9112 3.2.1). */
#ifndef RAMET_API_URI_H
#define RAMET_API_URI_H

#include <stddef.h>

#include "api/server/limits.h"
#include "lib/err.h"

struct uri_param {
	const char *name;
	const char *value; /* no NUL inside */
};

struct uri {
	char *text; /* what all pointers below point into */
	size_t segment_count;
	const char *segments[API_PATH_SEGMENTS_MAX];
	size_t param_count;
	struct uri_param params[API_QUERY_PARAMS_MAX];
};

/* Takes "/a/b?x=1&y=2" apart. Decoded text has no NUL, a segment no '/'; in the
 * query "+" is a space. Names are unique. -EINVAL: malformed; -ENOENT: more
 * segments than any route has; -ENOMEM. */
int uri_parse(const char *target, struct uri *uri, struct ramet_err *err);

/* The value of a query parameter; NULL when it is not there. */
const char *uri_param(const struct uri *uri, const char *name);

void uri_clear(struct uri *uri);

#endif
