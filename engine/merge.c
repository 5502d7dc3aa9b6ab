/* sandbox_merge(): see engine.h.
 *
 * The two sandboxes exchange what makes them found and seen: id, metadata and
 * place in the tree. Whatever holds on to the winner's guest (execs, files, its
 * worker's events) goes on undisturbed. What was the parent then ends under the
 * winner's former id, which becomes an alias. All of it is one step of the
 * event loop, and nothing of it outlives the daemon. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "lib/clock.h"
#include "lib/log.h"

#define ALIASES_MAX 1024u

struct alias {
	TAILQ_ENTRY(alias) link;
	char id[SANDBOX_ID_MAX];
	char into[SANDBOX_ID_MAX];
};

static void alias_free(struct engine *engine, struct alias *alias)
{
	TAILQ_REMOVE(&engine->aliases, alias, link);
	engine->alias_count--;
	free(alias);
}

void alias_free_all(struct engine *engine)
{
	while (!TAILQ_EMPTY(&engine->aliases))
		alias_free(engine, TAILQ_FIRST(&engine->aliases));
}

static int alias_add(struct engine *engine, const char *id, const char *into, struct ramet_err *err)
{
	struct alias *alias = calloc(1, sizeof(*alias)), *other;

	if (!alias)
		return err_set(err, ENOMEM, "no memory to merge sandboxes");
	/* What stood for the winner now stands for what it became. */
	TAILQ_FOREACH(other, &engine->aliases, link)
	if (!strcmp(other->into, id))
		(void)snprintf(other->into, sizeof(other->into), "%s", into);
	(void)snprintf(alias->id, sizeof(alias->id), "%s", id);
	(void)snprintf(alias->into, sizeof(alias->into), "%s", into);
	TAILQ_INSERT_TAIL(&engine->aliases, alias, link);
	if (++engine->alias_count > ALIASES_MAX)
		alias_free(engine, TAILQ_FIRST(&engine->aliases));
	return 0;
}

const char *engine_merged_into(struct engine *engine, const char *id)
{
	struct alias *alias;

	TAILQ_FOREACH(alias, &engine->aliases, link)
	{
		if (strcmp(alias->id, id) != 0)
			continue;
		if (engine_sandbox_find(engine, alias->into))
			return alias->into;
		alias_free(engine, alias);
		return NULL;
	}
	return NULL;
}

#define SWAP(a, b)                                                                                 \
	do {                                                                                       \
		__typeof__(a) swap_ = (a);                                                         \
		(a) = (b);                                                                         \
		(b) = swap_;                                                                       \
	} while (0)

static void merge_swap(struct sandbox *parent, struct sandbox *winner)
{
	char id[SANDBOX_ID_MAX];

	memcpy(id, parent->id, sizeof(id));
	memcpy(parent->id, winner->id, sizeof(id));
	memcpy(winner->id, id, sizeof(id));
	SWAP(parent->metadata_count, winner->metadata_count);
	for (size_t i = 0; i < METADATA_MAX; i++)
		for (int k = 0; k < 2; k++)
			SWAP(parent->metadata[i][k], winner->metadata[i][k]);
	SWAP(parent->created_wall_ns, winner->created_wall_ns);
	SWAP(parent->fork_number, winner->fork_number);
	tree_replace(parent, winner);
}

struct merge {
	struct engine *engine;
	char id[SANDBOX_ID_MAX]; /* of the survivor */
	sandbox_cb done;
	void *arg;
};

/* The guest knows its new name. */
static void merge_named(void *arg, const struct ramet_err *err)
{
	struct merge *merge = arg;
	struct sandbox *s = engine_sandbox_find(merge->engine, merge->id);
	struct ramet_err cause;

	if (err)
		cause = *err;
	else if (!s || s->state != SANDBOX_READY)
		(void)err_set(&cause, ECANCELED, "sandbox %s was closed", merge->id);
	else
		cause.code = 0;
	if (merge->done)
		merge->done(merge->arg, cause.code ? NULL : s, cause.code ? &cause : NULL);
	free(merge);
}

static int merge_name(struct sandbox *winner, struct merge *merge, struct ramet_err *err)
{
	struct agent_identity identity = { .hostname = merge->id };

	memcpy(identity.generation, winner->generation, sizeof(identity.generation));
	return agent_reseed(winner->agent, &identity, merge_named, merge, err);
}

/* The parent's former guest; nobody can find it any more. */
static void merge_end(struct sandbox *s, const char *id)
{
	sandbox_delist(s);
	s->builder = true;
	TAILQ_INSERT_TAIL(&s->engine->builders, s, link);
	(void)sandbox_close(s, NULL, NULL, NULL);
	(void)err_set(&s->cause, ECANCELED, "sandbox %s goes on as another one that was merged",
		      id);
}

static int merge_check(struct sandbox *parent, struct sandbox *winner, struct ramet_err *err)
{
	int r = sandbox_check_ready(parent, err);

	if (r == 0)
		r = sandbox_check_ready(winner, err);
	if (r < 0)
		return r;
	if (parent == winner)
		return err_set(err, EINVAL, "a sandbox cannot be merged into itself");
	if (parent->fork || parent->freeze || winner->fork || winner->freeze)
		return err_set(err, EBUSY, "one of the sandboxes is being forked or paused");
	if (!tree_related(parent, winner))
		return err_set(
			err, EINVAL,
			"sandbox %s is not of one fork tree with %s: only a fork can be merged",
			winner->id, parent->id);
	return 0;
}

int sandbox_merge(struct sandbox *parent, struct sandbox *winner, sandbox_cb done, void *arg,
		  struct ramet_err *err)
{
	struct engine *engine = parent->engine;
	struct merge *merge;
	int r = merge_check(parent, winner, err);

	if (r < 0)
		return r;
	merge = calloc(1, sizeof(*merge));
	if (!merge)
		return err_set(err, ENOMEM, "no memory to merge sandboxes");
	*merge = (struct merge){ .engine = engine, .done = done, .arg = arg };
	(void)snprintf(merge->id, sizeof(merge->id), "%s", parent->id);
	r = merge_name(winner, merge, err);
	if (r < 0) {
		free(merge);
		return r;
	}
	r = alias_add(engine, winner->id, parent->id, err);
	if (r < 0) {
		/* The name is on its way; it is put right with the next one. */
		merge->done = NULL;
		return r;
	}
	log_info("sandbox %s goes on as %s", winner->id, parent->id);
	merge_swap(parent, winner);
	merge_end(parent, merge->id);
	return 0;
}
