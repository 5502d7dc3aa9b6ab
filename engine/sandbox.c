/* Sandboxes seen from outside: creating, looking, and handing work to the
 * parts that do it. How one gets ready is in sandbox_boot.c, how it ends in
 * sandbox_end.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/internal.h"
#include "lib/clock.h"

#define ID_PREFIX "sbx_"
#define ID_RANDOM 20

/* "sbx_" and 100 random bits in base32 (RFC 4648, lower case). */
static int id_make(char *id, struct ramet_err *err)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
	uint8_t random[ID_RANDOM];
	size_t n = strlen(ID_PREFIX);

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return err_set(err, EIO, "the host has no random numbers");
	memcpy(id, ID_PREFIX, n);
	for (size_t i = 0; i < sizeof(random); i++)
		id[n++] = alphabet[random[i] % 32];
	id[n] = '\0';
	return 0;
}

static const char *phase_words(enum sandbox_phase phase)
{
	switch (phase) {
	case PHASE_TEMPLATE:
		return "its template was being prepared";
	case PHASE_RESERVE:
		return "there was no worker for it";
	case PHASE_STITCH:
		return "its memory was not in place";
	case PHASE_JAIL:
		return "its worker was not jailed";
	case PHASE_SETUP:
		return "its image was being loaded";
	case PHASE_KERNEL:
		return "its kernel was booting";
	case PHASE_AGENT:
		return "its agent had not said hello";
	default:
		return "its agent had not confirmed its identity";
	}
}

static int boot_on_deadline(sd_event_source *source, uint64_t usec, void *arg)
{
	struct sandbox *s = arg;
	struct ramet_err err;

	(void)source;
	(void)usec;
	(void)err_set(&err, ETIMEDOUT, "the sandbox was not ready after %.1f s (limit %s): %s",
		      (double)(clock_monotonic_ns() - s->created_ns) / SECONDS_NS,
		      s->parent_id[0] ? "fork_deadline" : "boot_deadline", phase_words(s->phase));
	sandbox_fail(s, &err);
	return 0;
}

int sandbox_set_ready_deadline(struct sandbox *sandbox, uint64_t ns, struct ramet_err *err)
{
	int r = sandbox_set_deadline(sandbox, ns, boot_on_deadline);

	return r < 0 ? err_errno(err, -r, "no timer for a sandbox") : 0;
}

struct sandbox *sandbox_alloc(struct engine *engine, struct ramet_err *err)
{
	struct sandbox *s = calloc(1, sizeof(*s));
	int r;

	if (!s) {
		(void)err_set(err, ENOMEM, "no memory for a sandbox");
		return NULL;
	}
	s->engine = engine;
	s->image = (struct template_files){ -1, { -1, -1, -1 } };
	s->created_ns = clock_monotonic_ns();
	s->created_wall_ns = clock_wall_ns();
	TAILQ_INIT(&s->closers);
	TAILQ_INIT(&s->children);
	exec_queue_init(&s->execs, engine->loop, &engine->limits);
	file_set_init(&s->files, engine->loop, &engine->limits);
	r = sd_event_add_defer(engine->loop, &s->step, sandbox_step, s);
	if (r >= 0)
		r = sd_event_source_set_enabled(s->step, SD_EVENT_OFF);
	if (r < 0) {
		(void)err_errno(err, -r, "cannot add a sandbox to the event loop");
		sandbox_free(s);
		return NULL;
	}
	return s;
}

int sandbox_enlist(struct sandbox *sandbox, sandbox_cb done, void *arg, struct ramet_err *err)
{
	struct engine *engine = sandbox->engine;
	int r = id_make(sandbox->id, err);

	if (r < 0)
		return r;
	if (sandbox->builder) {
		TAILQ_INSERT_TAIL(&engine->builders, sandbox, link);
	} else {
		r = state_record(engine->state, sandbox->id, err);
		if (r < 0)
			return r;
		TAILQ_INSERT_TAIL(&engine->sandboxes, sandbox, link);
		engine->count++;
	}
	sandbox->created = done;
	sandbox->created_arg = arg;
	return 0;
}

int sandbox_make_builder(struct engine *engine, const char *template_name,
			 const struct pool_kind *kind, sandbox_cb done, void *arg,
			 struct sandbox **builder, struct ramet_err *err)
{
	struct sandbox *s = sandbox_alloc(engine, err);
	int r;

	if (!s)
		return -ENOMEM;
	s->builder = true;
	s->memory_bytes = kind->memory_bytes;
	s->isolation = kind->isolation;
	s->plain = kind->plain;
	s->template_name = strdup(template_name);
	r = s->template_name ? sandbox_set_ready_deadline(s, engine->limits.boot_deadline, err)
			     : err_set(err, ENOMEM, "no memory for a template");
	if (r == 0)
		r = sandbox_enlist(s, done, arg, err);
	if (r < 0) {
		sandbox_free(s);
		return r;
	}
	*builder = s;
	return 0;
}

void sandbox_delist(struct sandbox *sandbox)
{
	struct engine *engine = sandbox->engine;

	tree_remove(sandbox);
	if (sandbox->builder) {
		TAILQ_REMOVE(&engine->builders, sandbox, link);
		return;
	}
	TAILQ_REMOVE(&engine->sandboxes, sandbox, link);
	engine->count--;
	state_forget(engine->state, sandbox->id);
}

/* Whether there may be `more` sandboxes. */
int sandbox_check_room(const struct engine *engine, unsigned int more, struct ramet_err *err)
{
	if (engine->destroying)
		return err_set(err, ECANCELED, "the daemon is stopping");
	if (more > engine->limits.max_sandboxes - engine->count)
		return err_set(err, EAGAIN,
			       "there are %u sandboxes already, %u more are above %u (limit "
			       "max_sandboxes); close some",
			       engine->count, more, engine->limits.max_sandboxes);
	return 0;
}

int engine_sandbox_create(struct engine *engine, const struct sandbox_params *params,
			  sandbox_cb done, void *arg, struct ramet_err *err)
{
	struct sandbox *s;
	int r = sandbox_check_room(engine, 1, err);

	if (r < 0)
		return r;
	s = sandbox_alloc(engine, err);
	if (!s)
		return -ENOMEM;
	r = sandbox_set_params(s, params, err);
	if (r == 0)
		r = sandbox_set_ready_deadline(s, engine->limits.boot_deadline, err);
	if (r == 0)
		r = sandbox_enlist(s, done, arg, err);
	if (r < 0) {
		sandbox_free(s);
		return r;
	}
	sandbox_heat(s);
	r = engine->use_templates ? sandbox_create_restored(s, err) : sandbox_boot(s, err);
	if (r < 0) {
		sandbox_delist(s);
		sandbox_cool(s);
		sandbox_free(s);
	}
	return r;
}

struct sandbox *engine_sandbox_find(struct engine *engine, const char *id)
{
	struct sandbox *s;

	TAILQ_FOREACH(s, &engine->sandboxes, link)
	if (!strcmp(s->id, id))
		return s;
	return NULL;
}

void engine_sandbox_each(struct engine *engine, bool (*visit)(void *arg, struct sandbox *),
			 void *arg)
{
	struct sandbox *s;

	TAILQ_FOREACH(s, &engine->sandboxes, link)
	if (!visit(arg, s))
		return;
}

static const char *sandbox_reason(const struct sandbox *s)
{
	if (s->state != SANDBOX_FAILED)
		return NULL;
	return s->cause.code ? s->cause.msg : "the sandbox's worker is ending";
}

void sandbox_info(const struct sandbox *sandbox, struct sandbox_info *info)
{
	const struct memory *memory = sandbox->vm ? sandbox->vm->memory : NULL;
	unsigned int execs = sandbox->execs.count;

	*info = (struct sandbox_info){
		.id = sandbox->id,
		.template_name = sandbox->template_name,
		.state = sandbox->state,
		.reason = sandbox_reason(sandbox),
		.memory_bytes = sandbox->memory_bytes,
		.isolation = sandbox->isolation,
		.kernel = sandbox->kernel,
		.created_wall_ns = sandbox->created_wall_ns,
		.timings = sandbox->timings,
		.exec_running = execs ? 1 : 0,
		.exec_waiting = execs ? execs - 1 : 0,
		.metadata_count = sandbox->metadata_count,
		.parent_id = sandbox->parent_id[0] ? sandbox->parent_id : NULL,
		.fork_index = sandbox->fork_number ? sandbox->fork_number - 1 : 0,
		.depth = sandbox->depth,
		.children = tree_count(sandbox),
	};
	memcpy(info->generation, sandbox->generation, sizeof(info->generation));
	if (memory) {
		info->layers = (unsigned int)memory->layer_count;
		info->extents = (unsigned int)memory->map->count;
		info->shared_bytes = memory_resident(memory);
	}
	for (size_t i = 0; i < sandbox->metadata_count; i++)
		for (int k = 0; k < 2; k++)
			info->metadata[i][k] = sandbox->metadata[i][k];
}

size_t sandbox_console(const struct sandbox *sandbox, char *buf, size_t size)
{
	const struct vm *vm = sandbox->vm;

	return vm && vm->worker ? worker_console(vm->worker, buf, size) : 0;
}

/* Whether work can be given to it; the error says why not. */
int sandbox_check_ready(const struct sandbox *s, struct ramet_err *err)
{
	if (s->state == SANDBOX_CREATING)
		return err_set(err, EAGAIN, "sandbox %s is not ready yet; try again later", s->id);
	if (s->state == SANDBOX_CLOSING)
		return err_set(err, ECANCELED, "sandbox %s is being closed", s->id);
	if (s->state == SANDBOX_PAUSED)
		return err_set(err, EAGAIN, "sandbox %s is paused; resume it first", s->id);
	if (s->state == SANDBOX_FAILED)
		return err_set(err, EIO, "sandbox %s has failed: %.400s", s->id, sandbox_reason(s));
	return 0;
}

int sandbox_exec(struct sandbox *sandbox, const struct exec_params *params,
		 const struct exec_callbacks *callbacks, void *arg, struct exec **exec,
		 struct ramet_err *err)
{
	int r = sandbox_check_ready(sandbox, err);

	return r < 0 ? r : exec_queue_add(&sandbox->execs, params, callbacks, arg, exec, err);
}

int sandbox_download(struct sandbox *sandbox, const char *path, const struct file_callbacks *cb,
		     void *arg, struct file_transfer **transfer, struct ramet_err *err)
{
	int r = sandbox_check_ready(sandbox, err);

	return r < 0 ? r : file_download(&sandbox->files, path, cb, arg, transfer, err);
}

int sandbox_upload(struct sandbox *sandbox, const char *path, uint32_t mode,
		   const struct file_callbacks *cb, void *arg, struct file_transfer **transfer,
		   struct ramet_err *err)
{
	int r = sandbox_check_ready(sandbox, err);

	return r < 0 ? r : file_upload(&sandbox->files, path, mode, cb, arg, transfer, err);
}

int sandbox_list(struct sandbox *sandbox, const char *path, const struct file_callbacks *cb,
		 void *arg, struct file_transfer **transfer, struct ramet_err *err)
{
	int r = sandbox_check_ready(sandbox, err);

	return r < 0 ? r : file_list(&sandbox->files, path, cb, arg, transfer, err);
}
