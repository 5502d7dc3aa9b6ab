/* Which paths are walked, and in which order: see walk.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/walk.h"
#include "lib/cleanup.h"

int walk_compare(const char *a, size_t a_length, const char *b, size_t b_length)
{
	size_t length = a_length < b_length ? a_length : b_length;

	for (size_t i = 0; i < length; i++) {
		unsigned char x = (unsigned char)a[i], y = (unsigned char)b[i];

		if (x == y)
			continue;
		if (x == '/')
			return -1;
		if (y == '/')
			return 1;
		return x < y ? -1 : 1;
	}
	if (a_length == b_length)
		return 0;
	return a_length < b_length ? -1 : 1;
}

/* Without "." and doubled or trailing slashes; NULL with the error. */
static char *path_normal(const char *path, const struct limits *limits, struct ramet_err *err)
{
	size_t length = strlen(path), used = 0;
	char *normal;

	if (path[0] != '/') {
		(void)err_set(err, EINVAL, "\"%.300s\" is not an absolute path", path);
		return NULL;
	}
	if (length > limits->path_length) {
		(void)err_set(err, ENAMETOOLONG,
			      "the path is longer than %zu bytes (limit path_length)",
			      limits->path_length);
		return NULL;
	}
	normal = malloc(length + 2);
	if (!normal) {
		(void)err_set(err, ENOMEM, "no memory for a path");
		return NULL;
	}
	while (*path) {
		size_t n = strcspn(path, "/");

		if (n == 2 && path[0] == '.' && path[1] == '.') {
			(void)err_set(err, EINVAL, "a path must not go through \"..\"");
			free(normal);
			return NULL;
		}
		if (n && !(n == 1 && path[0] == '.')) {
			normal[used++] = '/';
			memcpy(normal + used, path, n);
			used += n;
		}
		path += n + (path[n] == '/');
	}
	if (!used)
		normal[used++] = '/';
	normal[used] = '\0';
	return normal;
}

static int roots_compare(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;

	return walk_compare(x, strlen(x), y, strlen(y));
}

static bool is_covered(const char *root, const char *path)
{
	size_t n = strlen(root);

	return n == 1 || (!strncmp(root, path, n) && (!path[n] || path[n] == '/'));
}

void walk_roots_free(struct walk_roots *roots)
{
	for (size_t i = 0; i < roots->count; i++)
		free(roots->paths[i]);
	roots->count = 0;
}

int walk_roots_set(struct walk_roots *roots, const char *const *paths, size_t count,
		   const struct limits *limits, struct ramet_err *err)
{
	static const char *const everything[] = { "/" };
	size_t kept = 0;

	*roots = (struct walk_roots){ .count = 0 };
	if (count > TREE_ROOTS_MAX)
		return err_set(err, E2BIG, "more than %u paths", TREE_ROOTS_MAX);
	if (!count) {
		paths = everything;
		count = 1;
	}
	for (size_t i = 0; i < count; i++) {
		roots->paths[i] = path_normal(paths[i], limits, err);
		if (!roots->paths[i]) {
			walk_roots_free(roots);
			return -err->code;
		}
		roots->count++;
	}
	qsort(roots->paths, count, sizeof(roots->paths[0]), roots_compare);
	for (size_t i = 0; i < count; i++) {
		if (kept && is_covered(roots->paths[kept - 1], roots->paths[i]))
			free(roots->paths[i]);
		else
			roots->paths[kept++] = roots->paths[i];
	}
	roots->count = kept;
	return 0;
}
