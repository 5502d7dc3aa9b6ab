/* Which cgroup controllers this host offers and where; the common directory. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cgroup.h"
#include "engine/cgroup_file.h"
#include "lib/cleanup.h"

static const char *const controller_names[CGROUP_CONTROLLERS] = {
	[CGROUP_MEMORY] = "memory",
	[CGROUP_CPU] = "cpu",
	[CGROUP_PIDS] = "pids",
};

const char *cgroup_controller_name(enum cgroup_controller controller)
{
	return controller_names[controller];
}

/* Is `word` an element of the list that `separator` divides? */
static bool list_has(const char *list, const char *word, char separator)
{
	size_t len = strlen(word);

	while (*list) {
		size_t n = strcspn(list, (char[]){ separator, '\n', '\0' });

		if (n == len && !strncmp(list, word, len))
			return true;
		list += n + (list[n] != '\0');
	}
	return false;
}

/* Undoes the octal escapes of mountinfo ("\040" for a blank), in place. */
static void path_unescape(char *path)
{
	char *to = path;

	for (const char *from = path; *from; to++) {
		if (from[0] == '\\' && strspn(from + 1, "01234567") >= 3) {
			*to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

static void place_set(struct cgroup_place *place, int version, const char *mount)
{
	place->version = version;
	(void)snprintf(place->mount, sizeof(place->mount), "%s", mount);
	place->reason[0] = '\0';
}

static void unified_found(struct cgroup_host *host, const char *mount)
{
	char path[CGROUP_PATH_MAX + 32], text[512];

	(void)snprintf(path, sizeof(path), "%s/cgroup.controllers", mount);
	if (cgroup_file_read(path, text, sizeof(text)) < 0)
		return;
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		if (list_has(text, controller_names[c], ' '))
			place_set(&host->places[c], 2, mount);
}

static void legacy_found(struct cgroup_host *host, const char *mount, const char *options)
{
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		if (!host->places[c].version && list_has(options, controller_names[c], ','))
			place_set(&host->places[c], 1, mount);
}

/* One line of mountinfo: "id parent dev root MOUNT options [tags] - TYPE source
 * SUPER-OPTIONS". Others than cgroup mounts are left alone. */
static void mount_line(struct cgroup_host *host, char *line)
{
	char *fields = strstr(line, " - "), *mount = line, *end, *save = NULL;
	const char *type, *options;

	if (!fields)
		return;
	*fields = '\0';
	for (int i = 0; i < 4; i++) {
		mount = strchr(mount, ' ');
		if (!mount)
			return;
		mount++;
	}
	end = strchr(mount, ' ');
	if (end)
		*end = '\0';
	type = strtok_r(fields + 3, " \n", &save);
	if (!type || !strtok_r(NULL, " \n", &save) || !(options = strtok_r(NULL, " \n", &save)))
		return;
	path_unescape(mount);
	if (strlen(mount) >= CGROUP_PATH_MAX)
		return;
	if (!strcmp(type, "cgroup2"))
		unified_found(host, mount);
	else if (!strcmp(type, "cgroup"))
		legacy_found(host, mount, options);
}

int cgroup_host_detect(const char *mountinfo, const char *name, struct cgroup_host *host,
		       struct ramet_err *err)
{
	cleanup_file FILE *file = NULL;
	cleanup_free char *line = NULL;
	struct cgroup_host found = { 0 };
	size_t size = 0;
	int ret = cgroup_name_check(name, err);

	if (ret < 0)
		return ret;
	file = fopen(mountinfo, "re");
	if (!file)
		return err_errno(err, errno, "cannot read the mounts from %s", mountinfo);
	(void)snprintf(found.name, sizeof(found.name), "%s", name);
	while (getline(&line, &size, file) > 0)
		mount_line(&found, line);
	if (ferror(file))
		return err_errno(err, EIO, "cannot read the mounts from %s", mountinfo);
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		if (!found.places[c].version)
			(void)snprintf(found.places[c].reason, sizeof(found.places[c].reason),
				       "no mounted cgroup hierarchy has the %s controller",
				       controller_names[c]);
	*host = found;
	return 0;
}

/* ---- the common directory ---- */

__attribute__((format(printf, 3, 4))) static void place_lose(struct cgroup_place *place, int code,
							     const char *fmt, ...)
{
	va_list ap;
	size_t len;

	place->version = 0;
	va_start(ap, fmt);
	(void)vsnprintf(place->reason, sizeof(place->reason), fmt, ap);
	va_end(ap);
	len = strlen(place->reason);
	(void)snprintf(place->reason + len, sizeof(place->reason) - len, ": %s",
		       strerrordesc_np(code));
}

/* v2 hands a controller down level by level, by name in subtree_control. */
static int controller_enable(const char *directory, const char *controller)
{
	char path[CGROUP_PATH_MAX * 2], text[512];

	(void)snprintf(path, sizeof(path), "%s/cgroup.subtree_control", directory);
	if (cgroup_file_read(path, text, sizeof(text)) >= 0 && list_has(text, controller, ' '))
		return 0;
	(void)snprintf(text, sizeof(text), "+%s", controller);
	return cgroup_file_write(path, text);
}

static void place_prepare(struct cgroup_host *host, enum cgroup_controller c)
{
	struct cgroup_place *place = &host->places[c];
	char directory[CGROUP_PATH_MAX * 2];
	int ret = cgroup_path(host, c, NULL, NULL, directory, sizeof(directory));

	if (ret == 0 && place->version == 2) {
		ret = controller_enable(place->mount, controller_names[c]);
		if (ret < 0) {
			place_lose(place, -ret, "cannot enable %s in %.60s", controller_names[c],
				   place->mount);
			return;
		}
	}
	if (ret == 0 && mkdir(directory, 0755) < 0 && errno != EEXIST)
		ret = -errno;
	if (ret == 0 && place->version == 2)
		ret = controller_enable(directory, controller_names[c]);
	if (ret < 0)
		place_lose(place, -ret, "cannot prepare %.80s", directory);
}

void cgroup_host_prepare(struct cgroup_host *host)
{
	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++)
		if (host->places[c].version)
			place_prepare(host, c);
}
