/* Worker cgroups: detection and files against a made-up host in a temporary
 * directory. The real hierarchies are in test_cgroup_live.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cgroup.h"
#include "engine/cgroup_file.h"

/* ---- a made-up host ---- */

struct fake {
	char dir[64];
	struct cgroup_host host;
};

static void fake_path(const struct fake *fake, const char *file, char *path, size_t size)
{
	assert_true((size_t)snprintf(path, size, "%s/%s", fake->dir, file) < size);
}

static void fake_file(const struct fake *fake, const char *file, const char *text)
{
	char path[256];
	FILE *f;

	fake_path(fake, file, path, sizeof(path));
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void fake_dir(const struct fake *fake, const char *dir)
{
	char path[256];

	fake_path(fake, dir, path, sizeof(path));
	assert_int_equal(mkdir(path, 0755), 0);
}

static void fake_holds(const struct fake *fake, const char *file, const char *text)
{
	char path[256], got[256];

	fake_path(fake, file, path, sizeof(path));
	assert_true(cgroup_file_read(path, got, sizeof(got)) >= 0);
	assert_string_equal(got, text);
}

static int setup(void **state)
{
	struct fake *fake = calloc(1, sizeof(*fake));

	if (!fake)
		return -1;
	(void)strcpy(fake->dir, "/tmp/ramet-cgroup-XXXXXX");
	*state = fake;
	return mkdtemp(fake->dir) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct fake *fake = *state;
	int ret = nftw(fake->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);

	free(fake);
	return ret;
}

/* Writes a mount table in which each "%s" is the fake's directory, and reads it. */
static void detect(struct fake *fake, const char *lines)
{
	char table[2048], path[256];
	struct ramet_err err;
	size_t len = 0;

	for (const char *p = lines; *p; p++) {
		if (p[0] == '@')
			len += (size_t)snprintf(table + len, sizeof(table) - len, "%s", fake->dir);
		else
			table[len++] = *p;
		assert_true(len < sizeof(table) - 1);
	}
	table[len] = '\0';
	fake_file(fake, "mountinfo", table);
	fake_path(fake, "mountinfo", path, sizeof(path));
	assert_int_equal(cgroup_host_detect(path, "ramet", &fake->host, &err), 0);
}

#define LINE_V1(name) "31 24 0:1 / @/" name " rw,relatime - cgroup cgroup rw," name "\n"
#define LINE_V2       "41 31 0:38 / @/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"

static void assert_place(const struct fake *fake, enum cgroup_controller c, int version,
			 const char *dir)
{
	char path[256];

	assert_int_equal(fake->host.places[c].version, version);
	if (!version) {
		assert_true(fake->host.places[c].reason[0] != '\0');
		return;
	}
	fake_path(fake, dir, path, sizeof(path));
	assert_string_equal(fake->host.places[c].mount, path);
	assert_string_equal(fake->host.places[c].reason, "");
}

static void make_v1(struct fake *fake)
{
	fake_dir(fake, "memory");
	fake_dir(fake, "cpu");
	fake_dir(fake, "pids");
	detect(fake, LINE_V1("memory") LINE_V1("cpu") LINE_V1("pids"));
}

static void make_v2(struct fake *fake, const char *controllers)
{
	fake_dir(fake, "unified");
	fake_file(fake, "unified/cgroup.controllers", controllers);
	fake_file(fake, "unified/cgroup.subtree_control", "");
	detect(fake, LINE_V2);
}

/* ---- detection ---- */

static void finds_v1_controllers_on_their_mounts(void **state)
{
	struct fake *fake = *state;

	make_v1(fake);
	assert_place(fake, CGROUP_MEMORY, 1, "memory");
	assert_place(fake, CGROUP_CPU, 1, "cpu");
	assert_place(fake, CGROUP_PIDS, 1, "pids");
}

static void finds_v2_controllers(void **state)
{
	struct fake *fake = *state;

	make_v2(fake, "cpuset cpu io memory hugetlb pids rdma\n");
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		assert_place(fake, (enum cgroup_controller)c, 2, "unified");
}

static void takes_from_v1_what_v2_does_not_offer(void **state)
{
	struct fake *fake = *state;

	fake_dir(fake, "unified");
	fake_file(fake, "unified/cgroup.controllers", "hugetlb pids\n");
	detect(fake, LINE_V1("memory") LINE_V1("pids") LINE_V2);
	assert_place(fake, CGROUP_MEMORY, 1, "memory");
	assert_place(fake, CGROUP_PIDS, 2, "unified");
	assert_place(fake, CGROUP_CPU, 0, NULL);
}

static void prefers_v2_whatever_the_order_of_mounts(void **state)
{
	struct fake *fake = *state;

	fake_dir(fake, "unified");
	fake_file(fake, "unified/cgroup.controllers", "memory\n");
	detect(fake, LINE_V2 LINE_V1("memory"));
	assert_place(fake, CGROUP_MEMORY, 2, "unified");
}

static void says_why_a_limit_is_not_enforced(void **state)
{
	struct fake *fake = *state;

	detect(fake, "27 1 254:0 / / rw - ext4 /dev/vda rw\n");
	assert_place(fake, CGROUP_CPU, 0, NULL);
	assert_non_null(strstr(fake->host.places[CGROUP_CPU].reason, "cpu"));
}

static void finds_controllers_that_share_a_mount(void **state)
{
	struct fake *fake = *state;

	detect(fake, "31 24 0:1 / @/both rw - cgroup cgroup rw,cpu,cpuacct\n");
	assert_place(fake, CGROUP_CPU, 1, "both");
}

static void is_not_fooled_by_similar_names(void **state)
{
	struct fake *fake = *state;

	detect(fake, "31 24 0:1 / @/x rw - cgroup cgroup rw,cpuset,name=memory\n"
		     "32 24 0:1 / @/y rw - tmpfs cgroup rw,pids\n");
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		assert_place(fake, (enum cgroup_controller)c, 0, NULL);
}

static void unescapes_mount_points(void **state)
{
	struct fake *fake = *state;

	detect(fake, "31 24 0:1 / @/a\\040b rw - cgroup cgroup rw,cpu\n");
	assert_place(fake, CGROUP_CPU, 1, "a b");
}

static void passes_over_broken_lines(void **state)
{
	struct fake *fake = *state;

	detect(fake, "\n - \nx - cgroup\n1 2 3 - cgroup cgroup rw,cpu\n1 2 3 4 5 - cgroup cgroup\n"
		     "31 24 0:1 / @/ok rw - cgroup cgroup rw,cpu\n");
	assert_place(fake, CGROUP_CPU, 1, "ok");
}

static void reports_a_missing_mount_table(void **state)
{
	struct cgroup_host host;
	struct ramet_err err;

	(void)state;
	assert_int_equal(cgroup_host_detect("/nonexistent", "ramet", &host, &err), -ENOENT);
}

static void refuses_names_that_are_no_directory_name(void **state)
{
	static const char *const bad[] = { "", ".", "..", ".x", "a/b", "/a" };
	struct cgroup_host host;
	struct ramet_err err;
	char longest[CGROUP_NAME_MAX + 1];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cgroup_host_detect(CGROUP_MOUNTINFO, bad[i], &host, &err),
				 -EINVAL);
	memset(longest, 'a', CGROUP_NAME_MAX);
	longest[CGROUP_NAME_MAX] = '\0';
	assert_int_equal(cgroup_host_detect(CGROUP_MOUNTINFO, longest, &host, &err), -EINVAL);
}

/* ---- preparing ---- */

static void v2_hands_controllers_down(void **state)
{
	struct fake *fake = *state;

	make_v2(fake, "memory pids\n");
	fake_dir(fake, "unified/ramet");
	fake_file(fake, "unified/ramet/cgroup.subtree_control", "memory");
	cgroup_host_prepare(&fake->host);
	/* Each write replaces the text here; the kernel adds to a set. */
	fake_holds(fake, "unified/cgroup.subtree_control", "+pidsry");
	fake_holds(fake, "unified/ramet/cgroup.subtree_control", "+pidsy");
	assert_int_equal(fake->host.places[CGROUP_PIDS].version, 2);
}

static void a_refusing_controller_is_not_enforced(void **state)
{
	struct fake *fake = *state;

	make_v2(fake, "memory\n");
	cgroup_host_prepare(&fake->host); /* the new directory has no files */
	assert_place(fake, CGROUP_MEMORY, 0, NULL);
	assert_non_null(strstr(fake->host.places[CGROUP_MEMORY].reason, "ramet"));
}

/* ---- limits and usage ---- */

static const struct cgroup_limits some = { .memory_bytes = 536870912,
					   .cpu_percent = 150,
					   .pids = 3 };

static void set_limits(struct fake *fake, enum cgroup_controller c,
		       const struct cgroup_limits *limits, int expected)
{
	struct ramet_err err;

	assert_int_equal(cgroup_limits_set(&fake->host, c, "w", limits, &err), expected);
}

static void v1_files_get_the_limits(void **state)
{
	struct fake *fake = *state;

	make_v1(fake);
	cgroup_host_prepare(&fake->host);
	fake_dir(fake, "memory/ramet/w");
	fake_dir(fake, "cpu/ramet/w");
	fake_dir(fake, "pids/ramet/w");
	fake_file(fake, "memory/ramet/w/memory.limit_in_bytes", "");
	fake_file(fake, "memory/ramet/w/memory.memsw.limit_in_bytes", "");
	fake_file(fake, "cpu/ramet/w/cpu.cfs_period_us", "");
	fake_file(fake, "cpu/ramet/w/cpu.cfs_quota_us", "");
	fake_file(fake, "pids/ramet/w/pids.max", "");
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		set_limits(fake, (enum cgroup_controller)c, &some, 0);
	fake_holds(fake, "memory/ramet/w/memory.limit_in_bytes", "536870912");
	fake_holds(fake, "memory/ramet/w/memory.memsw.limit_in_bytes", "536870912");
	fake_holds(fake, "cpu/ramet/w/cpu.cfs_period_us", "100000");
	fake_holds(fake, "cpu/ramet/w/cpu.cfs_quota_us", "150000");
	fake_holds(fake, "pids/ramet/w/pids.max", "3");
}

static void v2_files_get_the_limits(void **state)
{
	struct fake *fake = *state;

	make_v2(fake, "memory cpu pids\n");
	fake_dir(fake, "unified/ramet");
	fake_dir(fake, "unified/ramet/w");
	fake_file(fake, "unified/ramet/w/memory.max", "");
	fake_file(fake, "unified/ramet/w/memory.swap.max", "");
	fake_file(fake, "unified/ramet/w/cpu.max", "");
	fake_file(fake, "unified/ramet/w/pids.max", "");
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		set_limits(fake, (enum cgroup_controller)c, &some, 0);
	fake_holds(fake, "unified/ramet/w/memory.max", "536870912");
	fake_holds(fake, "unified/ramet/w/memory.swap.max", "0");
	fake_holds(fake, "unified/ramet/w/cpu.max", "150000 100000");
	fake_holds(fake, "unified/ramet/w/pids.max", "3");
}

static void a_kernel_without_swap_accounting_will_do(void **state)
{
	struct fake *fake = *state;

	make_v1(fake);
	cgroup_host_prepare(&fake->host);
	fake_dir(fake, "memory/ramet/w");
	fake_file(fake, "memory/ramet/w/memory.limit_in_bytes", "");
	set_limits(fake, CGROUP_MEMORY, &some, 0);
}

static void a_limit_that_cannot_be_set_is_an_error(void **state)
{
	struct fake *fake = *state;

	make_v1(fake);
	cgroup_host_prepare(&fake->host);
	fake_dir(fake, "pids/ramet/w");
	set_limits(fake, CGROUP_PIDS, &some, -ENOENT);
}

static void zero_means_no_limit(void **state)
{
	const struct cgroup_limits none = { 0 };
	struct fake *fake = *state;

	make_v1(fake);
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		set_limits(fake, (enum cgroup_controller)c, &none, 0);
}

static void a_failed_create_leaves_nothing(void **state)
{
	struct fake *fake = *state;
	struct ramet_err err;
	char path[256];

	make_v1(fake);
	cgroup_host_prepare(&fake->host);
	/* Made-up directories have no limit files, so the first write fails. */
	assert_int_equal(cgroup_create(&fake->host, "w", &some, &err), -ENOENT);
	fake_path(fake, "memory/ramet/w", path, sizeof(path));
	assert_int_equal(access(path, F_OK), -1);
}

static void a_taken_name_is_left_alone(void **state)
{
	struct fake *fake = *state;
	struct ramet_err err;
	char path[256];

	make_v1(fake);
	cgroup_host_prepare(&fake->host);
	fake_dir(fake, "memory/ramet/w");
	assert_int_equal(cgroup_create(&fake->host, "w", &some, &err), -EEXIST);
	fake_path(fake, "memory/ramet/w", path, sizeof(path));
	assert_int_equal(access(path, F_OK), 0);
}

static void v1_usage_is_read(void **state)
{
	struct fake *fake = *state;
	struct cgroup_usage usage;

	make_v1(fake);
	cgroup_host_prepare(&fake->host);
	fake_dir(fake, "memory/ramet/w");
	fake_file(fake, "memory/ramet/w/memory.usage_in_bytes", "4096\n");
	fake_file(fake, "memory/ramet/w/memory.max_usage_in_bytes", "8192\n");
	fake_file(fake, "memory/ramet/w/memory.oom_control",
		  "oom_kill_disable 0\nunder_oom 7\noom_kill 2\n");
	cgroup_usage_read(&fake->host, "w", &usage);
	assert_true(usage.memory_known);
	assert_int_equal(usage.memory_bytes, 4096);
	assert_int_equal(usage.memory_peak_bytes, 8192);
	assert_int_equal(usage.oom_kills, 2);
}

static void v2_usage_is_read(void **state)
{
	struct fake *fake = *state;
	struct cgroup_usage usage;

	make_v2(fake, "memory\n");
	fake_dir(fake, "unified/ramet");
	fake_dir(fake, "unified/ramet/w");
	fake_file(fake, "unified/ramet/w/memory.current", "4096\n");
	fake_file(fake, "unified/ramet/w/memory.events", "low 0\nmax 9\noom 1\noom_kill 1\n");
	cgroup_usage_read(&fake->host, "w", &usage);
	assert_int_equal(usage.memory_bytes, 4096);
	assert_int_equal(usage.memory_peak_bytes, 0); /* memory.peak came in 5.19 */
	assert_int_equal(usage.oom_kills, 1);
}

static void a_key_matches_as_a_whole(void **state)
{
	(void)state;
	assert_int_equal(cgroup_key_value("oom_kill_disable 5\noom_kill 3\n", "oom_kill"), 3);
	assert_int_equal(cgroup_key_value("oom_kill 3", "kill"), 0);
	assert_int_equal(cgroup_key_value("", "oom_kill"), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(finds_v1_controllers_on_their_mounts),
		T(finds_v2_controllers),
		T(takes_from_v1_what_v2_does_not_offer),
		T(prefers_v2_whatever_the_order_of_mounts),
		T(says_why_a_limit_is_not_enforced),
		T(finds_controllers_that_share_a_mount),
		T(is_not_fooled_by_similar_names),
		T(unescapes_mount_points),
		T(passes_over_broken_lines),
		T(reports_a_missing_mount_table),
		T(refuses_names_that_are_no_directory_name),
		T(v2_hands_controllers_down),
		T(a_refusing_controller_is_not_enforced),
		T(v1_files_get_the_limits),
		T(v2_files_get_the_limits),
		T(a_kernel_without_swap_accounting_will_do),
		T(a_limit_that_cannot_be_set_is_an_error),
		T(zero_means_no_limit),
		T(a_failed_create_leaves_nothing),
		T(a_taken_name_is_left_alone),
		T(v1_usage_is_read),
		T(v2_usage_is_read),
		T(a_key_matches_as_a_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
