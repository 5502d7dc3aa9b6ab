/* Doctor's checks of the host's configuration and of what is installed. */
#include <errno.h>
#include <mntent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/cli/doctor.h"
#include "engine/template.h"
#include "lib/cleanup.h"
#include "lib/meminfo.h"

#define FILES_WANTED  16384u
#define MAPS_WANTED   65530ul
#define MEMORY_WANTED 1024ul /* MiB available: two sandboxes of the default size */

static const char *const controllers[] = { "memory", "cpu", "pids" };

#define CONTROLLER_COUNT (sizeof(controllers) / sizeof(controllers[0]))

/* Whether the word is in a list separated by spaces or commas. */
static bool word_in(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = strstr(list, word); at; at = strstr(at + 1, word))
		if ((at == list || strchr(" ,", at[-1])) && (!at[len] || strchr(" ,\n", at[len])))
			return true;
	return false;
}

static void unified_add(const char *directory, bool *found)
{
	char path[512], list[512];
	cleanup_file FILE *file = NULL;

	(void)snprintf(path, sizeof(path), "%s/cgroup.controllers", directory);
	file = fopen(path, "re");
	if (!file || !fgets(list, sizeof(list), file))
		return;
	for (size_t i = 0; i < CONTROLLER_COUNT; i++)
		found[i] = found[i] || word_in(list, controllers[i]);
}

/* Which controllers are there, in either hierarchy, and may be written to. */
static void controllers_find(bool *found, bool *v1, bool *v2)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct mntent *mount;

	while (mounts && (mount = getmntent(mounts))) {
		if (access(mount->mnt_dir, W_OK) < 0)
			continue;
		if (!strcmp(mount->mnt_type, "cgroup2")) {
			bool before[CONTROLLER_COUNT];

			memcpy(before, found, sizeof(before));
			unified_add(mount->mnt_dir, found);
			*v2 = *v2 || memcmp(before, found, sizeof(before));
		} else if (!strcmp(mount->mnt_type, "cgroup")) {
			for (size_t i = 0; i < CONTROLLER_COUNT; i++) {
				if (!word_in(mount->mnt_opts, controllers[i]))
					continue;
				found[i] = true;
				*v1 = true;
			}
		}
	}
	if (mounts)
		(void)endmntent(mounts);
}

void check_cgroups(const struct doctor *doctor, struct finding *finding)
{
	bool found[CONTROLLER_COUNT] = { false }, v1 = false, v2 = false;
	char missing[64] = "";

	(void)doctor;
	controllers_find(found, &v1, &v2);
	for (size_t i = 0; i < CONTROLLER_COUNT; i++) {
		strcat(missing, found[i] ? "" : " ");
		strcat(missing, found[i] ? "" : controllers[i]);
	}
	if (*missing)
		finding_bad(
			finding, FINDING_FAIL,
			"run as root with cgroups mounted (cgroup2 on /sys/fs/cgroup, or the v1 "
			"hierarchies), writable by this user",
			"controllers not usable:%s", missing);
	else
		finding_ok(finding, "memory, cpu and pids usable (%s)",
			   v1 && v2 ? "v1 and v2"
			   : v1     ? "v1"
				    : "v2");
}

void check_files(const struct doctor *doctor, struct finding *finding)
{
	struct rlimit limit;

	(void)doctor;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		finding_bad(finding, FINDING_FAIL, "use Linux", "getrlimit: %s", strerror(errno));
	else if (limit.rlim_max < FILES_WANTED)
		finding_bad(finding, FINDING_WARN,
			    "raise the hard limit: LimitNOFILE= in systemd, or ulimit -Hn",
			    "at most %lu per process; hundreds of sandboxes need %u",
			    (unsigned long)limit.rlim_max, FILES_WANTED);
	else
		finding_ok(finding, "at most %lu per process", (unsigned long)limit.rlim_max);
}

static int number_read(const char *path, unsigned long *value)
{
	cleanup_file FILE *file = fopen(path, "re");

	return file && fscanf(file, "%lu", value) == 1 ? 0 : -EIO;
}

void check_maps(const struct doctor *doctor, struct finding *finding)
{
	unsigned long maps;

	(void)doctor;
	if (number_read("/proc/sys/vm/max_map_count", &maps))
		finding_bad(finding, FINDING_WARN, "mount proc on /proc",
			    "cannot read vm.max_map_count");
	else if (maps < MAPS_WANTED)
		finding_bad(finding, FINDING_WARN, "sysctl vm.max_map_count=262144",
			    "vm.max_map_count is %lu; %lu are wanted", maps, MAPS_WANTED);
	else
		finding_ok(finding, "at most %lu per process", maps);
}

void check_memory(const struct doctor *doctor, struct finding *finding)
{
	struct meminfo host;
	unsigned long available; /* MiB */

	(void)doctor;
	if (meminfo_read(&host) < 0) {
		finding_bad(finding, FINDING_WARN, "mount proc on /proc",
			    "cannot read /proc/meminfo");
		return;
	}
	available = host.available / (1024 * 1024);
	if (available < MEMORY_WANTED)
		finding_bad(finding, FINDING_WARN,
			    "free some, or create sandboxes with a smaller memory_mb",
			    "%lu MiB available; a sandbox takes 512 MiB by default", available);
	else
		finding_ok(finding, "%lu MiB available", available);
}

void check_images(const struct doctor *doctor, struct finding *finding)
{
	struct template_files files;
	struct ramet_err err = { 0 };

	if (template_open(doctor->images, "python", &files, &err)) {
		finding_bad(finding, FINDING_FAIL,
			    "build them with \"make image\", or name their directory with --images",
			    "%s", err.msg);
		return;
	}
	template_close(&files);
	finding_ok(finding, "kernel, agent and template \"python\" in %s", doctor->images);
}

void check_daemon(const struct doctor *doctor, struct finding *finding)
{
	char text[160];

	if (client_probe(doctor->cli, text, sizeof(text)))
		finding_ok(finding, "rametd %s answers on %s", text, doctor->cli->socket);
	else
		finding_bad(finding, FINDING_WARN,
			    "start it: rametd --socket PATH --state DIR; set RAMET_SOCKET or use "
			    "--socket for a socket elsewhere",
			    "nobody answers on %s (%s)", doctor->cli->socket, text);
}
