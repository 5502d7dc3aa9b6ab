/* Which route answers which method and path. */
#include <string.h>

#include "api/server/request.h"

struct resource {
	const char *segments[API_PATH_SEGMENTS_MAX]; /* "" is a sandbox id */
	const struct request_ops *get, *put, *post, *delete;
};

static const struct resource resources[] = {
	{ { "v1", "sandboxes" }, .get = &route_sandboxes, .post = &route_create },
	{ { "v1", "sandboxes", "" }, .get = &route_info, .delete = &route_delete },
	{ { "v1", "sandboxes", "", "exec" }, .post = &route_exec },
	{ { "v1", "sandboxes", "", "files" }, .get = &route_download, .put = &route_upload },
	{ { "v1", "sandboxes", "", "files", "list" }, .get = &route_list },
	{ { "v1", "sandboxes", "", "console" }, .get = &route_console },
	{ { "v1", "sandboxes", "", "fork" }, .post = &route_fork },
	{ { "v1", "sandboxes", "", "merge_into", "" }, .post = &route_merge },
	{ { "v1", "sandboxes", "", "pause" }, .post = &route_pause },
	{ { "v1", "sandboxes", "", "resume" }, .post = &route_resume },
	{ { "v1", "sandboxes", "", "reclaim" }, .post = &route_reclaim },
	{ { "v1", "sandboxes", "", "diff" }, .post = &route_diff },
	{ { "v1", "tree" }, .get = &route_tree },
	{ { "v1", "healthz" }, .get = &route_healthz },
	{ { "v1", "version" }, .get = &route_version },
	{ { "v1", "capacity" }, .get = &route_capacity },
};

/* The shape that engine ids have: "sbx_" and lower-case base32. */
static bool sandbox_id_valid(const char *id)
{
	size_t len = strlen(id);

	return len > 4 && len < SANDBOX_ID_MAX && !strncmp(id, "sbx_", 4) &&
	       strspn(id + 4, "abcdefghijklmnopqrstuvwxyz0123456789") == len - 4;
}

static bool resource_matches(const struct resource *resource, const struct uri *uri)
{
	size_t i;

	for (i = 0; i < uri->segment_count; i++) {
		const char *wanted = resource->segments[i];

		if (!wanted || (*wanted && strcmp(wanted, uri->segments[i])))
			return false;
	}
	return i == API_PATH_SEGMENTS_MAX || !resource->segments[i];
}

static const struct request_ops *resource_method(const struct resource *resource,
						 const char *method)
{
	if (!strcmp(method, MHD_HTTP_METHOD_GET))
		return resource->get;
	if (!strcmp(method, MHD_HTTP_METHOD_PUT))
		return resource->put;
	if (!strcmp(method, MHD_HTTP_METHOD_POST))
		return resource->post;
	if (!strcmp(method, MHD_HTTP_METHOD_DELETE))
		return resource->delete;
	return NULL;
}

static void reply_not_allowed(struct request *request, const struct resource *resource,
			      const char *method)
{
	char allow[40] = "";

	strcat(allow, resource->get ? ", GET" : "");
	strcat(allow, resource->put ? ", PUT" : "");
	strcat(allow, resource->post ? ", POST" : "");
	strcat(allow, resource->delete ? ", DELETE" : "");
	reply_error(request, MHD_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed",
		    "%.16s is not allowed here; allowed: %s", method, allow + 2);
	if (request->response)
		(void)MHD_add_response_header(request->response, MHD_HTTP_HEADER_ALLOW, allow + 2);
}

void request_route(struct request *request, const char *method)
{
	const struct resource *found = NULL;
	const struct request_ops *ops;

	for (size_t i = 0; i < sizeof(resources) / sizeof(resources[0]) && !found; i++)
		if (resource_matches(&resources[i], &request->uri))
			found = &resources[i];
	if (!found) {
		reply_error(request, MHD_HTTP_NOT_FOUND, "not_found", "no such resource");
		return;
	}
	ops = resource_method(found, method);
	if (!ops) {
		reply_not_allowed(request, found, method);
		return;
	}
	for (size_t i = 0; i < API_PATH_SEGMENTS_MAX && found->segments[i]; i++) {
		const char *id = request->uri.segments[i];

		if (*found->segments[i])
			continue;
		if (!sandbox_id_valid(id)) {
			reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_id",
				    "a sandbox id is \"sbx_\" with lower-case letters and digits");
			return;
		}
		if (!request->sandbox_id)
			request->sandbox_id = id;
		else
			request->other_id = id;
	}
	request->ops = ops;
}
