/* The parameters of a sandbox: checked, defaulted, copied. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "vmm/control.h"

#define DEFAULT_TEMPLATE "python"

static int check_memory(const struct limits *limits, uint64_t bytes, struct ramet_err *err)
{
	if (bytes < limits->memory_min || bytes > limits->memory_max)
		return err_set(err, EINVAL,
			       "memory of %llu MiB is outside of %llu to %llu MiB (limits "
			       "memory_min, memory_max)",
			       (unsigned long long)(bytes / MIB),
			       (unsigned long long)(limits->memory_min / MIB),
			       (unsigned long long)(limits->memory_max / MIB));
	if (bytes % limits->memory_step)
		return err_set(
			err, EINVAL,
			"memory of %llu bytes is not a multiple of %llu MiB (limit memory_step)",
			(unsigned long long)bytes, (unsigned long long)(limits->memory_step / MIB));
	return 0;
}

/* Printable as far as control characters go; the rest is the caller's. */
static bool metadata_clean(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
	return true;
}

static int check_pair(const struct limits *limits, const char *key, const char *value,
		      struct ramet_err *err)
{
	if (!key || !value || !key[0])
		return err_set(err, EINVAL, "a metadata key or value is missing");
	if (strlen(key) > limits->metadata_key_length)
		return err_set(
			err, EINVAL,
			"a metadata key is longer than %zu bytes (limit metadata_key_length)",
			limits->metadata_key_length);
	if (strlen(value) > limits->metadata_value_length)
		return err_set(
			err, EINVAL,
			"a metadata value is longer than %zu bytes (limit metadata_value_length)",
			limits->metadata_value_length);
	if (!metadata_clean(key) || !metadata_clean(value))
		return err_set(err, EINVAL, "metadata must not contain control characters");
	return 0;
}

static int check_metadata(const struct limits *limits, size_t count,
			  const char *const metadata[METADATA_MAX][2], struct ramet_err *err)
{
	if (count > METADATA_MAX)
		return err_set(err, EINVAL, "more than %d metadata pairs", METADATA_MAX);
	for (size_t i = 0; i < count; i++) {
		int r = check_pair(limits, metadata[i][0], metadata[i][1], err);

		if (r < 0)
			return r;
		for (size_t k = 0; k < i; k++)
			if (!strcmp(metadata[i][0], metadata[k][0]))
				return err_set(err, EINVAL, "the metadata key '%s' occurs twice",
					       metadata[i][0]);
	}
	return 0;
}

static int copy_params(struct sandbox *sandbox, const char *template_name, size_t count,
		       const char *const metadata[METADATA_MAX][2], struct ramet_err *err)
{
	bool ok;

	sandbox->template_name = strdup(template_name ? template_name : DEFAULT_TEMPLATE);
	ok = sandbox->template_name != NULL;
	for (size_t i = 0; ok && i < count; i++) {
		sandbox->metadata_count = i + 1;
		for (int k = 0; k < 2; k++) {
			sandbox->metadata[i][k] = strdup(metadata[i][k]);
			ok = ok && sandbox->metadata[i][k];
		}
	}
	return ok ? 0 : err_set(err, ENOMEM, "no memory for a sandbox");
}

int sandbox_set_params(struct sandbox *sandbox, const struct sandbox_params *params,
		       struct ramet_err *err)
{
	const struct limits *limits = &sandbox->engine->limits;
	int r;

	sandbox->memory_bytes =
		params->memory_bytes ? params->memory_bytes : limits->memory_default;
	sandbox->isolation = params->isolation ? params->isolation : ISOLATION_FULL;
	sandbox->plain = params->plain;
	r = check_memory(limits, sandbox->memory_bytes, err);
	if (r == 0 && sandbox->isolation != ISOLATION_FULL && sandbox->isolation != ISOLATION_FAST)
		r = err_set(err, EINVAL, "unknown isolation mode %d: full or fast",
			    params->isolation);
	if (r == 0)
		r = check_metadata(limits, params->metadata_count, params->metadata, err);
	if (r == 0)
		r = copy_params(sandbox, params->template_name, params->metadata_count,
				params->metadata, err);
	if (r == 0)
		r = template_open(sandbox->engine->image_dir, sandbox->template_name,
				  &sandbox->image, err);
	return r;
}

int sandbox_copy_params(struct sandbox *sandbox, const struct sandbox *from, size_t metadata_count,
			const char *const metadata[METADATA_MAX][2], struct ramet_err *err)
{
	const char *inherited[METADATA_MAX][2];
	int r = check_metadata(&from->engine->limits, metadata_count, metadata, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < from->metadata_count; i++)
		for (int k = 0; k < 2; k++)
			inherited[i][k] = from->metadata[i][k];
	sandbox->memory_bytes = from->memory_bytes;
	sandbox->isolation = from->isolation;
	sandbox->plain = from->plain;
	if (!metadata_count)
		return copy_params(sandbox, from->template_name, from->metadata_count,
				   (const char *const(*)[2])inherited, err);
	return copy_params(sandbox, from->template_name, metadata_count, metadata, err);
}

void sandbox_free_params(struct sandbox *sandbox)
{
	template_close(&sandbox->image);
	for (size_t i = 0; i < sandbox->metadata_count; i++)
		for (int k = 0; k < 2; k++)
			free(sandbox->metadata[i][k]);
	free(sandbox->template_name);
}
