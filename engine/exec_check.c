/* What an exec may ask for: see exec.h. */
#include <errno.h>

#include "engine/exec.h"

int exec_check(const struct exec_queue *queue, const struct exec_params *params,
	       struct ramet_err *err)
{
	const struct limits *limits = queue->limits;

	if (params->language != EXEC_PYTHON && params->language != EXEC_BASH)
		return err_set(err, EINVAL, "unknown language %d: python or bash",
			       params->language);
	if (params->code_length && !params->code)
		return err_set(err, EINVAL, "no code");
	if (params->code_length > limits->code_length)
		return err_set(err, E2BIG,
			       "the code has %zu bytes, more than %zu (limit code_length); upload "
			       "it as a file",
			       params->code_length, limits->code_length);
	if (params->timeout_ms > limits->timeout_max_ms)
		return err_set(err, EINVAL, "the timeout is above %u ms (limit timeout_max_ms)",
			       limits->timeout_max_ms);
	if (params->output_limit > limits->output_max)
		return err_set(err, EINVAL,
			       "the output limit is above %llu bytes (limit output_max)",
			       (unsigned long long)limits->output_max);
	if (queue->count > limits->exec_waiting)
		return err_set(err, EBUSY,
			       "%u execs wait already in this sandbox (limit exec_waiting); try "
			       "again later",
			       limits->exec_waiting);
	if (params->code_length > limits->code_queued - queue->code_bytes)
		return err_set(err, EBUSY,
			       "the code of the waiting execs is above %zu bytes (limit "
			       "code_queued); try again later",
			       limits->code_queued);
	return 0;
}
