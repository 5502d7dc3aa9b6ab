/* Request targets: see uri.h. */
#include "api/server/uri.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Decodes in place; `plus`: "+" means a space. */
static int text_decode(char *text, bool plus, const char *what, struct ramet_err *err)
{
	char *out = text;

	for (const char *in = text; *in; in++) {
		int high, low;

		if (*in == '+' && plus) {
			*out++ = ' ';
			continue;
		}
		if (*in != '%') {
			*out++ = *in;
			continue;
		}
		high = hex_value(in[1]);
		low = high < 0 ? -1 : hex_value(in[2]);
		if (low < 0)
			return err_set(err, EINVAL,
				       "the %s has a \"%%\" that two hex digits do not follow",
				       what);
		if (!high && !low)
			return err_set(err, EINVAL, "the %s contains %%00", what);
		*out++ = (char)(high * 16 + low);
		in += 2;
	}
	*out = '\0';
	return 0;
}

static int path_split(struct uri *uri, char *path, struct ramet_err *err)
{
	char *next;

	if (*path != '/')
		return err_set(err, EINVAL, "the request target must start with \"/\"");
	for (char *segment = path + 1; segment; segment = next) {
		next = strchr(segment, '/');
		if (next)
			*next++ = '\0';
		if (uri->segment_count == API_PATH_SEGMENTS_MAX)
			return err_set(err, ENOENT, "no such resource");
		if (text_decode(segment, false, "path", err))
			return -EINVAL;
		if (strchr(segment, '/'))
			return err_set(err, EINVAL, "a path segment contains an encoded \"/\"");
		uri->segments[uri->segment_count++] = segment;
	}
	return 0;
}

static int query_split(struct uri *uri, char *query, struct ramet_err *err)
{
	char *next;

	for (char *pair = query; pair; pair = next) {
		struct uri_param *param = &uri->params[uri->param_count];
		char *value;

		next = strchr(pair, '&');
		if (next)
			*next++ = '\0';
		if (!*pair)
			continue;
		if (uri->param_count == API_QUERY_PARAMS_MAX)
			return err_set(err, EINVAL, "more than %u query parameters",
				       API_QUERY_PARAMS_MAX);
		value = strchr(pair, '=');
		if (value)
			*value++ = '\0';
		else
			value = pair + strlen(pair);
		if (text_decode(pair, true, "query", err) || text_decode(value, true, "query", err))
			return -EINVAL;
		if (uri_param(uri, pair))
			return err_set(err, EINVAL, "query parameter \"%.40s\" is given twice",
				       pair);
		param->name = pair;
		param->value = value;
		uri->param_count++;
	}
	return 0;
}

int uri_parse(const char *target, struct uri *uri, struct ramet_err *err)
{
	struct uri parsed = { .text = strdup(target) };
	char *query;
	int ret;

	if (!parsed.text)
		return err_set(err, ENOMEM, "out of memory");
	query = strchr(parsed.text, '?');
	if (query)
		*query++ = '\0';
	ret = path_split(&parsed, parsed.text, err);
	if (!ret && query)
		ret = query_split(&parsed, query, err);
	if (ret) {
		uri_clear(&parsed);
		return ret;
	}
	*uri = parsed;
	return 0;
}

const char *uri_param(const struct uri *uri, const char *name)
{
	for (size_t i = 0; i < uri->param_count; i++)
		if (!strcmp(uri->params[i].name, name))
			return uri->params[i].value;
	return NULL;
}

void uri_clear(struct uri *uri)
{
	free(uri->text);
	*uri = (struct uri){ 0 };
}
