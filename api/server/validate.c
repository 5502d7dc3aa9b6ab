/* What clients send, checked against what the route takes: see request.h. */
#include <inttypes.h>
#include <string.h>

#include "api/server/request.h"

static const char *type_name(enum field_type type)
{
	switch (type) {
	case FIELD_STRING:
		return "a string";
	case FIELD_INTEGER:
		return "an integer";
	case FIELD_BOOLEAN:
		return "true or false";
	case FIELD_OBJECT:
		return "an object";
	case FIELD_ARRAY:
		return "a list";
	}
	return "something else";
}

static bool type_matches(const json_t *value, enum field_type type)
{
	switch (type) {
	case FIELD_STRING:
		return json_is_string(value);
	case FIELD_INTEGER:
		return json_is_integer(value);
	case FIELD_BOOLEAN:
		return json_is_boolean(value);
	case FIELD_OBJECT:
		return json_is_object(value);
	case FIELD_ARRAY:
		return json_is_array(value);
	}
	return false;
}

static const struct field *field_find(const struct field *fields, const char *name)
{
	for (; fields->name; fields++)
		if (!strcmp(fields->name, name))
			return fields;
	return NULL;
}

static bool field_check(struct request *request, const struct field *field, const json_t *value)
{
	if (!type_matches(value, field->type)) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request", "\"%s\" must be %s",
			    field->name, type_name(field->type));
		return false;
	}
	if (field->type == FIELD_INTEGER &&
	    (json_integer_value(value) < field->min || json_integer_value(value) > field->max)) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "\"%s\" must be between %" JSON_INTEGER_FORMAT
			    " and %" JSON_INTEGER_FORMAT,
			    field->name, field->min, field->max);
		return false;
	}
	if (field->type == FIELD_STRING && ((json_int_t)json_string_length(value) < field->min ||
					    (json_int_t)json_string_length(value) > field->max)) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "\"%s\" must be %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT
			    " bytes long",
			    field->name, field->min, field->max);
		return false;
	}
	if (field->type == FIELD_ARRAY && ((json_int_t)json_array_size(value) < field->min ||
					   (json_int_t)json_array_size(value) > field->max)) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "\"%s\" must have %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT
			    " items",
			    field->name, field->min, field->max);
		return false;
	}
	if (field->type == FIELD_STRING && !field->nul_allowed &&
	    strlen(json_string_value(value)) != json_string_length(value)) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "\"%s\" must not contain U+0000", field->name);
		return false;
	}
	return true;
}

static bool object_check(struct request *request, json_t *object, const struct field *fields)
{
	const char *name;
	json_t *value;

	json_object_foreach(object, name, value)
	{
		const struct field *field = field_find(fields, name);

		if (!field) {
			reply_error(request, MHD_HTTP_BAD_REQUEST, "unknown_field",
				    "unknown field \"%.64s\"", name);
			return false;
		}
		if (!field_check(request, field, value))
			return false;
	}
	for (const struct field *field = fields; field->name; field++) {
		if (field->required && !json_object_get(object, field->name)) {
			reply_error(request, MHD_HTTP_BAD_REQUEST, "missing_field",
				    "\"%s\" is missing", field->name);
			return false;
		}
	}
	return true;
}

json_t *request_json(struct request *request, const struct field *fields)
{
	json_error_t problem;
	json_t *object;

	if (request->body_len)
		object = json_loadb(request->body, request->body_len,
				    JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
	else
		object = json_object();
	request_body_free(request);
	if (!object) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_json",
			    "the body is not valid JSON: line %d, column %d: %s", problem.line,
			    problem.column, problem.text);
		return NULL;
	}
	if (!json_is_object(object)) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "the body must be a JSON object");
		json_decref(object);
		return NULL;
	}
	if (!object_check(request, object, fields)) {
		json_decref(object);
		return NULL;
	}
	return object;
}

bool name_valid(const char *text, size_t max)
{
	size_t len = strlen(text);

	return len && len <= max && text[0] != '.' && text[0] != '-' && text[0] != '_' &&
	       strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

const char *request_guest_path(struct request *request)
{
	const char *path = uri_param(&request->uri, "path");

	if (!path || !*path) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "missing_parameter",
			    "the query parameter \"path\" is missing");
		return NULL;
	}
	if (*path != '/') {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_path",
			    "\"path\" must be absolute, that is start with \"/\"");
		return NULL;
	}
	if (strlen(path) > PATH_LENGTH_MAX) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_path",
			    "\"path\" is longer than %u bytes", PATH_LENGTH_MAX);
		return NULL;
	}
	return path;
}
