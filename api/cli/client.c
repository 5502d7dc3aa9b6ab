/* HTTP on the daemon's Unix socket, by libcurl: see cli.h. */
#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

#define REPLY_MAX (64u * 1024 * 1024) /* of JSON held in memory */

struct call {
	CURL *curl;
	struct curl_slist *headers;
	char *body;
	size_t body_sent;
	struct transfer *transfer; /* NULL: the reply is collected */
	char *text;
	size_t len;
	bool stopped; /* the receiver of the data gave up */
	char problem[CURL_ERROR_SIZE];
};

static void call_clear(struct call *call)
{
	curl_easy_cleanup(call->curl);
	curl_slist_free_all(call->headers);
	free(call->body);
	free(call->text);
}

void reply_clear(struct reply *reply)
{
	json_decref(reply->json);
	reply->json = NULL;
}

static long call_status(const struct call *call)
{
	long status = 0;

	(void)curl_easy_getinfo(call->curl, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

static size_t body_receive(char *data, size_t size, size_t count, void *arg)
{
	struct call *call = arg;
	size_t len = size * count;
	char *grown;

	if (call->transfer && call_status(call) < 300) {
		call->stopped = !call->transfer->data(call->transfer->arg, data, len);
		return call->stopped ? 0 : len;
	}
	if (len > REPLY_MAX - call->len)
		return 0;
	grown = realloc(call->text, call->len + len);
	if (!grown)
		return 0;
	call->text = grown;
	memcpy(call->text + call->len, data, len);
	call->len += len;
	return len;
}

static size_t header_receive(char *data, size_t size, size_t count, void *arg)
{
	struct call *call = arg;
	size_t len = size * count;
	cleanup_free char *line = strndup(data, len);
	char *value = line ? strchr(line, ':') : NULL;

	if (!line)
		return 0;
	if (value && call->transfer && call->transfer->header) {
		*value++ = '\0';
		value += strspn(value, " \t");
		value[strcspn(value, "\r\n")] = '\0';
		call->transfer->header(call->transfer->arg, line, value);
	}
	return len;
}

static size_t file_send(char *buf, size_t size, size_t count, void *arg)
{
	FILE *file = arg;
	size_t len = fread(buf, 1, size * count, file);

	return ferror(file) ? CURL_READFUNC_ABORT : len;
}

/* The URL's host is only for the Host header; the socket decides. */
static int call_init(struct call *call, const struct cli *cli, const char *method, const char *path)
{
	char url[20000];

	*call = (struct call){ .curl = curl_easy_init() };
	if (!call->curl)
		return cli_fail("out of memory");
	if ((size_t)snprintf(url, sizeof(url), "http://ramet%s", path) >= sizeof(url))
		return cli_fail("the path is too long");
	if (curl_easy_setopt(call->curl, CURLOPT_URL, url) ||
	    curl_easy_setopt(call->curl, CURLOPT_UNIX_SOCKET_PATH, cli->socket) ||
	    curl_easy_setopt(call->curl, CURLOPT_CUSTOMREQUEST, method) ||
	    curl_easy_setopt(call->curl, CURLOPT_NOPROXY, "*") ||
	    curl_easy_setopt(call->curl, CURLOPT_PATH_AS_IS, 1L) ||
	    curl_easy_setopt(call->curl, CURLOPT_HTTP_TRANSFER_DECODING, 1L) ||
	    curl_easy_setopt(call->curl, CURLOPT_BUFFERSIZE, 256 * 1024L) ||
	    curl_easy_setopt(call->curl, CURLOPT_UPLOAD_BUFFERSIZE, 256 * 1024L) ||
	    curl_easy_setopt(call->curl, CURLOPT_ERRORBUFFER, call->problem) ||
	    curl_easy_setopt(call->curl, CURLOPT_WRITEFUNCTION, body_receive) ||
	    curl_easy_setopt(call->curl, CURLOPT_WRITEDATA, call) ||
	    curl_easy_setopt(call->curl, CURLOPT_HEADERFUNCTION, header_receive) ||
	    curl_easy_setopt(call->curl, CURLOPT_HEADERDATA, call))
		return cli_fail("cannot set up a request to %s", cli->socket);
	return 0;
}

static int call_set_json(struct call *call, json_t *body)
{
	call->body = json_dumps(body, JSON_COMPACT);
	call->headers = curl_slist_append(NULL, "Content-Type: application/json");
	if (!call->body || !call->headers ||
	    curl_easy_setopt(call->curl, CURLOPT_HTTPHEADER, call->headers) ||
	    curl_easy_setopt(call->curl, CURLOPT_POSTFIELDSIZE_LARGE,
			     (curl_off_t)strlen(call->body)) ||
	    curl_easy_setopt(call->curl, CURLOPT_POSTFIELDS, call->body))
		return cli_fail("out of memory for the request");
	return 0;
}

static int call_set_upload(struct call *call, const struct transfer *transfer)
{
	if (curl_easy_setopt(call->curl, CURLOPT_UPLOAD, 1L) ||
	    curl_easy_setopt(call->curl, CURLOPT_READFUNCTION, file_send) ||
	    curl_easy_setopt(call->curl, CURLOPT_READDATA, transfer->upload))
		return cli_fail("cannot set up the upload");
	if (transfer->upload_size >= 0 && curl_easy_setopt(call->curl, CURLOPT_INFILESIZE_LARGE,
							   (curl_off_t)transfer->upload_size))
		return cli_fail("cannot set up the upload");
	return 0;
}

/* What the daemon said was wrong. */
static int error_report(const struct call *call, long status)
{
	json_t *reply = json_loadb(call->text ? call->text : "", call->len, 0, NULL);
	const char *message = NULL, *code = NULL;

	(void)json_unpack(reply, "{s:{s:s, s:s}}", "error", "code", &code, "message", &message);
	if (message)
		(void)cli_fail("%s (%s)", message, code);
	else
		(void)cli_fail("the daemon answered with status %ld", status);
	json_decref(reply);
	return CLI_FAILED;
}

static int call_perform(struct call *call, const struct cli *cli)
{
	CURLcode code = curl_easy_perform(call->curl);
	long status = call_status(call);

	if (call->stopped)
		return CLI_FAILED; /* who stopped it has complained */
	if (status >= 300 && call->text)
		return error_report(call, status);
	if (code == CURLE_COULDNT_CONNECT)
		return cli_fail("cannot reach the daemon on %s; is rametd running? (%s)",
				cli->socket, *call->problem ? call->problem : strerror(errno));
	if (code == CURLE_ABORTED_BY_CALLBACK)
		return cli_fail("cannot read what to upload: %s", strerror(errno));
	if (code)
		return cli_fail("the request failed: %s",
				*call->problem ? call->problem : curl_easy_strerror(code));
	if (status < 200 || status >= 300)
		return error_report(call, status);
	return 0;
}

int client_call(const struct cli *cli, const char *method, const char *path, json_t *body,
		struct reply *reply)
{
	struct call call;
	json_error_t problem;
	int status = call_init(&call, cli, method, path);

	if (!status && body)
		status = call_set_json(&call, body);
	if (!status)
		status = call_perform(&call, cli);
	if (!status) {
		reply->status = call_status(&call);
		reply->json =
			json_loadb(call.text ? call.text : "", call.len, JSON_ALLOW_NUL, &problem);
		if (!reply->json)
			status = cli_fail("the daemon's reply is not JSON: %s", problem.text);
	}
	call_clear(&call);
	return status;
}

int client_transfer(const struct cli *cli, const char *method, const char *path,
		    struct transfer *transfer)
{
	struct call call;
	int status = call_init(&call, cli, method, path);

	call.transfer = transfer;
	if (!status && transfer->body)
		status = call_set_json(&call, transfer->body);
	if (!status && transfer->upload)
		status = call_set_upload(&call, transfer);
	if (!status)
		status = call_perform(&call, cli);
	call_clear(&call);
	return status;
}

char *client_path(const char *id, const char *rest, const char *path)
{
	char *id_text = curl_easy_escape(NULL, id, 0);
	char *path_text = path ? curl_easy_escape(NULL, path, 0) : NULL;
	char *text = NULL;

	if (id_text && (!path || path_text) &&
	    asprintf(&text, "/v1/sandboxes/%s%s%s%s", id_text, rest, path ? "?path=" : "",
		     path ? path_text : "") < 0)
		text = NULL;
	curl_free(id_text);
	curl_free(path_text);
	return text;
}

int client_call_sandbox(const struct cli *cli, const char *method, const char *id, const char *rest,
			json_t *body, struct reply *reply)
{
	cleanup_free char *path = client_path(id, rest, NULL);

	return path ? client_call(cli, method, path, body, reply) : cli_fail("out of memory");
}

bool client_probe(const struct cli *cli, char *text, size_t size)
{
	const char *version = NULL;
	json_t *reply = NULL;
	struct call call;
	CURLcode code = CURLE_FAILED_INIT;

	if (!call_init(&call, cli, "GET", "/v1/version"))
		code = curl_easy_perform(call.curl);
	if (!code)
		reply = json_loadb(call.text ? call.text : "", call.len, 0, NULL);
	(void)json_unpack(reply, "{s:s}", "version", &version);
	if (version)
		(void)snprintf(text, size, "%s", version);
	else
		(void)snprintf(text, size, "%s",
			       code ? curl_easy_strerror(code)
				    : "what answers there is not rametd");
	json_decref(reply);
	call_clear(&call);
	return version;
}
