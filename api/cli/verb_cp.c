/* ramet cp: one file into or out of a sandbox. */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

static const struct option options[] = {
	{ "mode", required_argument, NULL, 'm' },
	CLI_COMMON_OPTIONS,
};

/* One side of the copy: a local path, or a path in a sandbox. */
struct place {
	char *id; /* NULL: local */
	char *path;
};

static void place_clear(struct place *place)
{
	free(place->id);
	free(place->path);
}

static int place_parse(struct cli *cli, const char *text, struct place *place)
{
	const char *colon = strncmp(text, "sbx_", 4) ? NULL : strchr(text, ':');

	*place = (struct place){ 0 };
	if (colon && colon[1] != '/')
		return cli_usage(cli, "the path in \"%s\" must be absolute", text);
	if (colon)
		place->id = strndup(text, (size_t)(colon - text));
	place->path = strdup(colon ? colon + 1 : text);
	return place->path && (!colon || place->id) ? -1 : cli_fail("out of memory");
}

/* A target that names a directory gets the source's last component. */
static int target_complete(struct place *target, const struct place *source)
{
	cleanup_free char *copy = strdup(source->path);
	size_t len = strlen(target->path);
	bool slash = len && target->path[len - 1] == '/';
	struct stat st;
	char *joined;

	if (!copy)
		return cli_fail("out of memory");
	if (!strcmp(target->path, "-") && !target->id)
		return -1;
	if (!slash && (target->id || stat(target->path, &st) < 0 || !S_ISDIR(st.st_mode)))
		return -1;
	if (!strcmp(source->path, "-"))
		return cli_fail("give the target a file name");
	if (asprintf(&joined, "%s%s%s", target->path, slash ? "" : "/", basename(copy)) < 0)
		return cli_fail("out of memory");
	free(target->path);
	target->path = joined;
	return -1;
}

/* ---- into a sandbox ---- */

struct json_text {
	char text[8192];
	size_t len;
};

static bool json_collect(void *arg, const char *data, size_t len)
{
	struct json_text *reply = arg;

	if (len > sizeof(reply->text) - reply->len)
		return cli_fail("the daemon's reply is too long") == CLI_OK;
	memcpy(reply->text + reply->len, data, len);
	reply->len += len;
	return true;
}

static int upload(const struct cli *cli, const struct place *source, const struct place *target,
		  const char *mode)
{
	bool from_stdin = !strcmp(source->path, "-");
	cleanup_file FILE *opened = from_stdin ? NULL : fopen(source->path, "re");
	cleanup_free char *path = client_path(target->id, "/files", target->path);
	cleanup_free char *url = NULL;
	struct json_text reply = { .len = 0 };
	struct transfer transfer = { .data = json_collect, .arg = &reply, .upload_size = -1 };
	struct stat st;
	char own_mode[8];
	int status;

	transfer.upload = from_stdin ? stdin : opened;
	if (!transfer.upload)
		return cli_fail("cannot open \"%s\": %s", source->path, strerror(errno));
	if (fstat(fileno(transfer.upload), &st) < 0)
		return cli_fail("cannot look at \"%s\": %s", source->path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return cli_fail("\"%s\" is a directory; pack it, for example with tar",
				source->path);
	if (S_ISREG(st.st_mode) && !from_stdin)
		transfer.upload_size = st.st_size;
	if (!mode && S_ISREG(st.st_mode) && st.st_mode & 0777) {
		(void)snprintf(own_mode, sizeof(own_mode), "%04o", st.st_mode & 0777);
		mode = own_mode;
	}
	if (!path || asprintf(&url, "%s%s%s", path, mode ? "&mode=" : "", mode ? mode : "") < 0)
		return cli_fail("out of memory");
	status = client_transfer(cli, "PUT", url, &transfer);
	if (!status && cli->json)
		(void)printf("%.*s\n", (int)reply.len, reply.text);
	return status ? status : cli_finish();
}

/* ---- out of a sandbox ---- */

struct receipt {
	FILE *file;
	unsigned int mode; /* from the reply */
	unsigned long long size;
};

static bool data_write(void *arg, const char *data, size_t len)
{
	struct receipt *receipt = arg;

	receipt->size += len;
	if (fwrite(data, 1, len, receipt->file) == len)
		return true;
	(void)cli_fail("cannot write the file: %s", strerror(errno));
	return false;
}

static void mode_note(void *arg, const char *name, const char *value)
{
	struct receipt *receipt = arg;

	if (!strcasecmp(name, "X-Ramet-Mode"))
		receipt->mode = (unsigned int)strtoul(value, NULL, 8) & 0777;
}

static int receive(const struct cli *cli, const struct place *source, struct receipt *receipt)
{
	cleanup_free char *url = client_path(source->id, "/files", source->path);
	struct transfer transfer = { .data = data_write, .header = mode_note, .arg = receipt };
	int status = url ? client_transfer(cli, "GET", url, &transfer) : cli_fail("out of memory");

	if (!status && fflush(receipt->file))
		status = cli_fail("cannot write the file: %s", strerror(errno));
	return status;
}

/* A regular target appears whole or not at all: by a temporary name beside it. */
static int download_file(const struct cli *cli, const struct place *source,
			 const struct place *target, const char *mode, struct receipt *receipt)
{
	cleanup_free char *temporary = NULL;
	mode_t mask = umask(0);
	int fd, status;

	(void)umask(mask);
	if (asprintf(&temporary, "%s.XXXXXX", target->path) < 0)
		return cli_fail("out of memory");
	fd = mkstemp(temporary);
	receipt->file = fd < 0 ? NULL : fdopen(fd, "w");
	if (!receipt->file) {
		status = cli_fail("cannot create a file beside \"%s\": %s", target->path,
				  strerror(errno));
		if (fd >= 0)
			(void)unlink(temporary);
		return status;
	}
	status = receive(cli, source, receipt);
	if (!status &&
	    fchmod(fd, mode ? (mode_t)strtoul(mode, NULL, 8) : receipt->mode & ~mask) < 0)
		status = cli_fail("cannot set the mode of \"%s\": %s", target->path,
				  strerror(errno));
	if (fclose(receipt->file) && !status)
		status = cli_fail("cannot write \"%s\": %s", target->path, strerror(errno));
	if (!status && rename(temporary, target->path) < 0)
		status = cli_fail("cannot rename to \"%s\": %s", target->path, strerror(errno));
	if (status)
		(void)unlink(temporary);
	return status;
}

static int download(const struct cli *cli, const struct place *source, const struct place *target,
		    const char *mode)
{
	struct receipt receipt = { .mode = 0644 };
	struct stat st;
	bool to_stdout = !strcmp(target->path, "-");
	bool special = !to_stdout && !stat(target->path, &st) && !S_ISREG(st.st_mode);
	int status;

	if (to_stdout || special) {
		receipt.file = to_stdout ? stdout : fopen(target->path, "we");
		if (!receipt.file)
			return cli_fail("cannot open \"%s\": %s", target->path, strerror(errno));
		status = receive(cli, source, &receipt);
		if (special)
			(void)fclose(receipt.file);
	} else {
		status = download_file(cli, source, target, mode, &receipt);
	}
	if (!status && cli->json && !to_stdout)
		(void)printf("{\"size\":%llu}\n", receipt.size);
	return status ? status : cli_finish();
}

static int copy(struct cli *cli, const struct place *source, struct place *target, const char *mode)
{
	int status;

	if (!source->id == !target->id)
		return cli_usage(cli, "exactly one of source and target is ID:PATH");
	status = target_complete(target, source);
	if (status >= 0)
		return status;
	return target->id ? upload(cli, source, target, mode) : download(cli, source, target, mode);
}

int verb_cp(struct cli *cli, int argc, char **argv)
{
	struct place source = { 0 }, target = { 0 };
	const char *mode = NULL;
	int option, status = -1;

	while (status < 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'm')
			mode = optarg;
		else
			status = cli_option(cli, option);
	}
	if (status >= 0)
		return status;
	if (argc - optind != 2)
		return cli_usage(cli, "cp wants a source and a target");
	if (mode && (!*mode || strspn(mode, "01234567") != strlen(mode) || strlen(mode) > 5))
		return cli_usage(cli, "--mode wants octal permission bits, not \"%s\"", mode);
	status = place_parse(cli, argv[optind], &source);
	if (status < 0)
		status = place_parse(cli, argv[optind + 1], &target);
	if (status < 0)
		status = copy(cli, &source, &target, mode);
	place_clear(&source);
	place_clear(&target);
	return status;
}
