/* ramet exec: streams what the code writes, exits as the code did. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/cli/cli.h"
#include "guest/protocol.h"
#include "lib/cleanup.h"

#define LINE_MAX_BYTES (16u * 1024 * 1024) /* one event; the daemon's are far smaller */

static const struct option options[] = {
	{ "python", no_argument, NULL, 'p' },
	{ "bash", no_argument, NULL, 'b' },
	{ "file", required_argument, NULL, 'f' },
	{ "timeout", required_argument, NULL, 't' },
	{ "output-limit", required_argument, NULL, 'o' },
	CLI_COMMON_OPTIONS,
};

struct session {
	const struct cli *cli;
	char *line;
	size_t len, room;
	bool result_open; /* the newline after the result is due */
	int exit_code;    /* -1 until known */
};

static int base64_digit(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *found = c ? strchr(digits, c) : NULL;

	return found ? (int)(found - digits) : -1;
}

/* Decodes in place; returns the length. Stops at padding or malformed text. */
static size_t base64_decode(char *text)
{
	unsigned int bits = 0, count = 0;
	size_t len = 0;

	for (const char *in = text; *in; in++) {
		int digit = base64_digit(*in);

		if (digit < 0)
			break;
		bits = bits << 6 | (unsigned int)digit;
		count += 6;
		if (count >= 8) {
			count -= 8;
			text[len++] = (char)(bits >> count & 0xff);
		}
	}
	return len;
}

static bool bytes_write(FILE *out, const char *data, size_t len)
{
	if (fwrite(data, 1, len, out) == len && !fflush(out))
		return true;
	(void)cli_fail("cannot write the output: %s", strerror(errno));
	return false;
}

static bool output_show(struct session *session, const char *type, const json_t *event)
{
	const json_t *data = json_object_get(event, "data");
	const char *text = json_string_value(data);
	size_t len = json_string_length(data);
	FILE *out = !strcmp(type, "stderr") || !strcmp(type, "notice") ? stderr : stdout;
	cleanup_free char *copy = NULL;

	if (!text)
		return true;
	if (json_object_get(event, "encoding")) {
		copy = strdup(text);
		if (!copy)
			return false;
		len = base64_decode(copy);
		text = copy;
	}
	if (strcmp(type, "result") && session->result_open) {
		session->result_open = false;
		if (!bytes_write(stdout, "\n", 1))
			return false;
	}
	if (!strcmp(type, "result"))
		session->result_open = true;
	if (!strcmp(type, "notice")) {
		(void)fputs("ramet: ", stderr);
		print_safe(stderr, text);
		(void)fputc('\n', stderr);
		return true;
	}
	return bytes_write(out, text, len);
}

/* What the exit event says beside the code, for a person. */
static void exit_explain(const json_t *event)
{
	static const struct {
		const char *field, *sentence;
	} facts[] = {
		{ "timed_out", "the timeout struck" },
		{ "repl_restarted", "the Python interpreter was restarted" },
		{ "state_lost", "the variables of earlier calls are lost" },
	};

	for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++)
		if (json_is_true(json_object_get(event, facts[i].field)))
			(void)fprintf(stderr, "ramet: %s\n", facts[i].sentence);
}

static bool event_take(struct session *session, const char *line, size_t len)
{
	json_t *event = json_loadb(line, len, JSON_ALLOW_NUL, NULL);
	const char *type = json_string_value(json_object_get(event, "type"));
	const char *message = NULL;
	bool good = true;

	if (!type) {
		(void)cli_fail("the daemon sent a line that is no event");
		json_decref(event);
		return false;
	}
	if (session->cli->json) {
		good = bytes_write(stdout, line, len) && bytes_write(stdout, "\n", 1);
	} else if (!strcmp(type, "error")) {
		(void)json_unpack(event, "{s:{s:s}}", "error", "message", &message);
		(void)cli_fail("%s", message ? message : "the exec failed");
	} else if (strcmp(type, "exit")) {
		good = output_show(session, type, event);
	} else {
		if (session->result_open)
			good = bytes_write(stdout, "\n", 1);
		exit_explain(event);
	}
	if (!strcmp(type, "exit"))
		session->exit_code = (int)json_integer_value(json_object_get(event, "exit_code"));
	json_decref(event);
	return good;
}

static bool lines_take(void *arg, const char *data, size_t len)
{
	struct session *session = arg;
	char *newline;

	if (session->len + len > session->room) {
		size_t room = (session->len + len) * 2;
		char *grown = room <= LINE_MAX_BYTES ? realloc(session->line, room) : NULL;

		if (!grown) {
			(void)cli_fail("an event is too large");
			return false;
		}
		session->line = grown;
		session->room = room;
	}
	memcpy(session->line + session->len, data, len);
	session->len += len;
	while ((newline = memchr(session->line, '\n', session->len))) {
		size_t used = (size_t)(newline - session->line) + 1;

		if (!event_take(session, session->line, used - 1))
			return false;
		session->len -= used;
		memmove(session->line, newline + 1, session->len);
	}
	return true;
}

/* ---- the code ---- */

static char *code_read(const char *name, size_t *len)
{
	cleanup_file FILE *opened = strcmp(name, "-") ? fopen(name, "re") : NULL;
	FILE *file = strcmp(name, "-") ? opened : stdin;
	char *code = file ? malloc(CODE_LENGTH_MAX + 1) : NULL;

	if (!code) {
		(void)cli_fail("cannot read \"%s\": %s", name, strerror(errno));
		return NULL;
	}
	*len = fread(code, 1, CODE_LENGTH_MAX + 1, file);
	if (ferror(file)) {
		(void)cli_fail("cannot read \"%s\": %s", name, strerror(errno));
	} else if (*len > CODE_LENGTH_MAX) {
		(void)cli_fail("the code in \"%s\" is longer than %u bytes", name, CODE_LENGTH_MAX);
	} else {
		return code;
	}
	free(code);
	return NULL;
}

static char *code_join(int count, char **words, size_t *len)
{
	size_t room = 1;
	char *code;

	for (int i = 0; i < count; i++)
		room += strlen(words[i]) + 1;
	code = calloc(1, room);
	if (!code)
		return NULL;
	for (int i = 0; i < count; i++) {
		strcat(code, i ? " " : "");
		strcat(code, words[i]);
	}
	*len = strlen(code);
	return code;
}

static int code_set(struct cli *cli, json_t *body, const char *file, int count, char **words)
{
	cleanup_free char *code = NULL;
	size_t len = 0;
	json_t *text;

	if (file && count)
		return cli_usage(cli, "give the code either as arguments or with --file");
	if (count == 1 && !strcmp(words[0], "-"))
		file = "-";
	else if (!count && !file)
		file = "-";
	code = file ? code_read(file, &len) : code_join(count, words, &len);
	if (!code)
		return CLI_EXEC_FAILED;
	text = json_stringn(code, len);
	if (!text || json_object_set_new(body, "code", text)) {
		(void)cli_fail("the code is not UTF-8");
		return CLI_EXEC_FAILED;
	}
	return -1;
}

/* ---- options ---- */

static int timeout_set(struct cli *cli, json_t *body, const char *text)
{
	char *end;
	double seconds;

	errno = 0;
	seconds = strtod(text, &end);
	if (errno || end == text || *end || !(seconds >= 0.001 && seconds <= 86400))
		return cli_usage(cli, "--timeout wants seconds from 0.001 to 86400, not \"%s\"",
				 text);
	(void)json_object_set_new(body, "timeout_ms",
				  json_integer((json_int_t)(seconds * 1000 + 0.5)));
	return -1;
}

/* Options stand before and after ID, not after the first word of code. Returns
 * -1 to go on. */
static int options_take(struct cli *cli, int argc, char **argv, json_t *body, const char **file)
{
	int option, status = -1;

	while (status < 0 && (option = getopt_long(argc, argv, "+f:", options, NULL)) != -1) {
		if (option == 'p' || option == 'b')
			(void)json_object_set_new(body, "language",
						  json_string(option == 'p' ? "python" : "bash"));
		else if (option == 'f')
			*file = optarg;
		else if (option == 't')
			status = timeout_set(cli, body, optarg);
		else if (option == 'o')
			status = cli_number(cli, body, "output_limit", optarg, "--output-limit",
					    "bytes");
		else
			status = cli_option(cli, option);
	}
	return status;
}

static int exec_run(const struct cli *cli, const char *id, json_t *body)
{
	struct session session = { .cli = cli, .exit_code = -1 };
	struct transfer transfer = { .data = lines_take, .arg = &session, .body = body };
	cleanup_free char *path = client_path(id, "/exec?stream=true", NULL);
	int status = path ? client_transfer(cli, "POST", path, &transfer) : cli_fail("no memory");

	free(session.line);
	if (!status && session.exit_code >= 0)
		return cli_finish() ? CLI_EXEC_FAILED : session.exit_code;
	return CLI_EXEC_FAILED;
}

int verb_exec(struct cli *cli, int argc, char **argv)
{
	json_t *body = json_object();
	const char *file = NULL, *id = NULL;
	int status = options_take(cli, argc, argv, body, &file);

	if (status < 0 && optind == argc)
		status = cli_usage(cli, "which sandbox?");
	if (status < 0) {
		id = argv[optind];
		argc -= optind;
		argv += optind;
		optind = 0;
		status = options_take(cli, argc, argv, body, &file);
	}
	if (status < 0)
		status = code_set(cli, body, file, argc - optind, argv + optind);
	if (status < 0)
		status = exec_run(cli, id, body);
	json_decref(body);
	return status;
}
