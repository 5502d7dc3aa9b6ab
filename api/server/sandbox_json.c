/* Sandboxes and their metadata as JSON: see request.h. */
#include <stdio.h>
#include <string.h>

#include "api/server/limits.h"
#include "api/server/request.h"
#include "vmm/control.h"

#define MIB (1024u * 1024)

static const char *state_name(enum sandbox_state state)
{
	switch (state) {
	case SANDBOX_CREATING:
		return "creating";
	case SANDBOX_READY:
		return "ready";
	case SANDBOX_FAILED:
		return "failed";
	case SANDBOX_CLOSING:
		return "closing";
	case SANDBOX_PAUSED:
		return "paused";
	}
	return "unknown";
}

/* Only phases that it went through: see struct sandbox_timings. */
json_t *timings_json(const struct sandbox_timings *timings)
{
	const struct {
		const char *name;
		uint64_t ns;
	} phases[] = {
		{ "spawn_ms", timings->spawn_ns },   { "setup_ms", timings->setup_ns },
		{ "boot_ms", timings->boot_ns },     { "reserve_ms", timings->reserve_ns },
		{ "stitch_ms", timings->stitch_ns }, { "state_ms", timings->state_ns },
		{ "answer_ms", timings->answer_ns },
	};
	json_t *object = json_object();

	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
		if (phases[i].ns)
			(void)json_object_set_new(object, phases[i].name, json_ms(phases[i].ns));
	(void)json_object_set_new(object, "total_ms", json_ms(timings->total_ns));
	return object;
}

/* In the form of RFC 9562; null for a guest that was not told yet. */
static json_t *uuid_json(const uint8_t uuid[16])
{
	static const uint8_t none[16];
	char text[37];
	size_t at = 0;

	if (!memcmp(uuid, none, sizeof(none)))
		return json_null();
	for (size_t i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			text[at++] = '-';
		(void)snprintf(text + at, sizeof(text) - at, "%02x", uuid[i]);
		at += 2;
	}
	return json_string(text);
}

static void lineage_add(json_t *object, const struct sandbox_info *info)
{
	(void)json_object_set_new(object, "parent",
				  info->parent_id ? json_string(info->parent_id) : json_null());
	if (info->parent_id)
		(void)json_object_set_new(object, "fork_index",
					  json_integer((json_int_t)info->fork_index));
	(void)json_object_set_new(object, "depth", json_integer((json_int_t)info->depth));
	(void)json_object_set_new(object, "children", json_integer((json_int_t)info->children));
	(void)json_object_set_new(object, "generation", uuid_json(info->generation));
	(void)json_object_set_new(object, "memory",
				  json_pack("{s:I, s:I, s:I}", "layers", (json_int_t)info->layers,
					    "extents", (json_int_t)info->extents, "shared_mb",
					    (json_int_t)(info->shared_bytes / MIB)));
}

json_t *sandbox_json(const struct sandbox *sandbox)
{
	struct sandbox_info info;
	json_t *metadata, *object;

	sandbox_info(sandbox, &info);
	metadata = json_object();
	for (size_t i = 0; i < info.metadata_count; i++)
		(void)json_object_set_new(metadata, info.metadata[i][0],
					  json_string(info.metadata[i][1]));
	object = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:o, s:o, s:{s:i, s:i}, s:o}", "id",
			   info.id, "state", state_name(info.state), "template", info.template_name,
			   "memory_mb", (json_int_t)(info.memory_bytes / MIB), "isolation",
			   info.isolation == ISOLATION_FAST ? "fast" : "full", "kernel",
			   info.kernel ? info.kernel : "", "created_at",
			   json_time((int64_t)info.created_wall_ns), "metadata", metadata, "execs",
			   "running", (int)info.exec_running, "waiting", (int)info.exec_waiting,
			   "create_timings", timings_json(&info.timings));
	if (!object)
		return NULL;
	lineage_add(object, &info);
	if (info.reason)
		(void)json_object_set_new(object, "reason", json_string(info.reason));
	return object;
}

bool metadata_read(struct request *request, json_t *object, size_t *count,
		   const char *metadata[METADATA_MAX][2])
{
	const char *key;
	json_t *value;

	if (json_object_size(object) > METADATA_MAX) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "\"metadata\" has more than %d entries", METADATA_MAX);
		return false;
	}
	json_object_foreach(object, key, value)
	{
		if (!*key || strlen(key) > API_METADATA_KEY_MAX || !json_is_string(value) ||
		    json_string_length(value) > API_METADATA_VALUE_MAX ||
		    strlen(json_string_value(value)) != json_string_length(value)) {
			reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
				    "\"metadata\" maps names of 1 to %u bytes to strings of at "
				    "most %u bytes without NUL; \"%.64s\" does not",
				    API_METADATA_KEY_MAX, API_METADATA_VALUE_MAX, key);
			return false;
		}
		metadata[*count][0] = key;
		metadata[(*count)++][1] = json_string_value(value);
	}
	return true;
}
