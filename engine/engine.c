/* The engine's root object: see engine.h. */
#include "engine/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "uffd/userfault.h"

/* A worker was reaped. */
static void engine_worker_exited(void *arg, const char *name, int wait_status)
{
	struct engine *engine = arg;
	struct vm *vm = vm_find(engine, name);

	if (vm)
		vm_exited(vm, wait_status, spawner_last_exit(engine->spawner)->oom_killed);
}

static int engine_check(const struct engine_config *config, struct ramet_err *err)
{
	if (!config->image_dir || config->image_dir[0] != '/')
		return err_set(err, EINVAL, "the image directory must be an absolute path");
	if (!config->worker_path || config->worker_path[0] != '/')
		return err_set(err, EINVAL, "the worker program must be an absolute path");
	if (config->max_sandboxes > WORKERS_MAX)
		return err_set(err, EINVAL, "max_sandboxes of %u is above %u",
			       config->max_sandboxes, WORKERS_MAX);
	return 0;
}

/* State directory, remains of a killed daemon, spawner: in this order. */
static int engine_start(struct engine *engine, const struct engine_config *config,
			struct ramet_err *err)
{
	struct ramet_err missing = { 0 };
	const char *cgroup;
	int r = state_open(config->state_dir, &engine->state, err);

	if (r < 0)
		return r;
	engine->uffd_fd = userfault_device_open(&missing);
	if (engine->uffd_fd < 0 && engine->use_templates)
		return err_set(err, ENODEV, "%s", missing.msg);
	if (engine->uffd_fd < 0)
		log_warn("sandboxes cannot be forked: %s", missing.msg);
	cgroup = state_cgroup_name(engine->state);
	r = spawner_clean_stale(cgroup, err);
	if (r < 0)
		return r;
	return spawner_create(engine->loop, config->worker_path, cgroup, engine_worker_exited,
			      engine, &engine->spawner, err);
}

int engine_create(sd_event *loop, const struct engine_config *config, struct engine **engine,
		  struct ramet_err *err)
{
	struct engine *e;
	int r = engine_check(config, err);

	if (r < 0)
		return r;
	e = calloc(1, sizeof(*e));
	if (!e)
		return err_set(err, ENOMEM, "no memory for the engine");
	e->loop = sd_event_ref(loop);
	e->limits = limits_default;
	if (config->max_sandboxes)
		e->limits.max_sandboxes = config->max_sandboxes;
	TAILQ_INIT(&e->sandboxes);
	TAILQ_INIT(&e->vms);
	TAILQ_INIT(&e->images);
	TAILQ_INIT(&e->builders);
	TAILQ_INIT(&e->aliases);
	e->uffd_fd = e->m2p.fd = -1;
	e->use_templates = config->use_templates;
	if (config->pool_size)
		e->limits.pool_size = config->pool_size;
	e->image_dir = strdup(config->image_dir);
	r = e->image_dir ? engine_start(e, config, err)
			 : err_set(err, ENOMEM, "no memory for the engine");
	if (r < 0) {
		engine_destroy(e);
		return r;
	}
	*engine = e;
	return 0;
}

void engine_destroy(struct engine *engine)
{
	struct sandbox *s;

	if (!engine)
		return;
	engine->destroying = true;
	fork_destroy_all(engine);
	while ((s = TAILQ_FIRST(&engine->sandboxes)))
		sandbox_destroy(s);
	while ((s = TAILQ_FIRST(&engine->builders)))
		sandbox_destroy(s);
	image_destroy_all(engine);
	pool_destroy_all(engine);
	alias_free_all(engine);
	vm_destroy_all(engine);
	spawner_destroy(engine->spawner); /* kills and reaps the workers */
	state_close(engine->state);
	close_fd(&engine->uffd_fd);
	m2p_close(&engine->m2p);
	free(engine->host);
	free(engine->image_dir);
	(void)sd_event_unref(engine->loop);
	free(engine);
}

void engine_counts(const struct engine *engine, struct engine_counts *counts)
{
	struct engine_counts c = {
		.total = engine->count,
		.max_sandboxes = engine->limits.max_sandboxes,
	};
	const struct sandbox *s;

	TAILQ_FOREACH(s, &engine->sandboxes, link)
	{
		c.creating += s->state == SANDBOX_CREATING;
		c.ready += s->state == SANDBOX_READY;
		c.failed += s->state == SANDBOX_FAILED;
		c.closing += s->state == SANDBOX_CLOSING;
		c.paused += s->state == SANDBOX_PAUSED;
	}
	pool_count_all(engine, &c.shells_ready, &c.shells_starting);
	*counts = c;
}

const char *engine_run_dir(const struct engine *engine)
{
	return state_run_dir(engine->state);
}
