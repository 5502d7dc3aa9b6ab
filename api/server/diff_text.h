/* The contents of small text files that differ, for POST .../diff. */
#ifndef RAMET_API_DIFF_TEXT_H
#define RAMET_API_DIFF_TEXT_H

#include "api/server/request.h"

struct diff_text;

/* Called once, from the loop: the entries have their texts. */
typedef void (*diff_text_done)(struct request *request);

struct diff_text *diff_text_new(struct request *request, const char *const ids[2],
				diff_text_done done);
void diff_text_free(struct diff_text *text); /* at any time; NULL is fine */

/* Notes that the object `json` (borrowed) shall get the contents of `entry`, if it
 * is about regular files. 0 or -ENOMEM. */
int diff_text_add(struct diff_text *text, const struct diff_entry *entry, json_t *json);

/* Fetches; `done` follows, or the request is answered with an error. False when
 * there is nothing to fetch, and nothing follows. */
bool diff_text_start(struct diff_text *text);

#endif
