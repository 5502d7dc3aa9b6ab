/* File transfers of a sandbox that is paused or forked: see file.h. */
#include "engine/file.h"

size_t file_set_handles(const struct file_set *set, uint32_t *handles)
{
	const struct file_transfer *transfer;
	size_t n = 0;

	LIST_FOREACH(transfer, &set->transfers, link)
	{
		bool closing = transfer->closing && !transfer->control.held;

		if (transfer->open && !closing && n < FILE_HANDLES_MAX)
			handles[n++] = transfer->handle;
	}
	return n;
}

void file_set_suspend(struct file_set *set, bool suspended)
{
	struct file_transfer *transfer;

	LIST_FOREACH(transfer, &set->transfers, link)
	{
		if (!suspended)
			file_progress(transfer);
		else if (transfer->stall)
			(void)sd_event_source_set_enabled(transfer->stall, SD_EVENT_OFF);
	}
}
