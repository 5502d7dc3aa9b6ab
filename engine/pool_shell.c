/* One shell: from the start of its worker until it is given away or lost. */
#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"
#include "engine/pool_state.h"
#include "lib/log.h"

/* As many deaths in a row are no accident: others would most likely die as well. */
#define FAILURES_MAX 3u

void shell_free(struct shell *shell)
{
	vm_release(shell->vm);
	free(shell);
}

void shell_remove(struct shell *shell)
{
	struct pool *pool = shell->pool;

	if (shell->request) {
		TAILQ_REMOVE(&shell->request->shells, shell, link);
		shell->request->got--;
	} else if (shell->ready) {
		TAILQ_REMOVE(&pool->idle, shell, link);
		pool->idle_count--;
	} else {
		TAILQ_REMOVE(&pool->starting, shell, link);
		pool->starting_count--;
	}
}

void shell_make_idle(struct shell *shell)
{
	struct pool *pool = shell->pool;

	shell_remove(shell);
	shell->request = NULL;
	shell->ready = true;
	TAILQ_INSERT_TAIL(&pool->idle, shell, link);
	pool->idle_count++;
}

static void shell_on_ready(void *arg)
{
	struct shell *shell = arg;
	struct pool *pool = shell->pool;
	const struct pool_kind *kind = &pool->kind;
	struct worker_shell params = {
		.ram_bytes = kind->memory_bytes,
		.isolation = kind->isolation,
		.plain = kind->plain,
		.uffd_fd = pool->engine->uffd_fd,
	};
	struct ramet_err err;

	params.m2p_fd = m2p_fd(&pool->engine->m2p, kind->memory_bytes, &err);
	if (params.m2p_fd < 0 || worker_shell(shell->vm->worker, &params, &err) < 0)
		vm_fail(shell->vm, &err);
}

static void shell_on_shell(void *arg)
{
	struct shell *shell = arg;
	struct pool *pool = shell->pool;
	struct ramet_err err;

	if (pool->base && !shell->based && TAILQ_EMPTY(&pool->requests)) {
		shell->based = true;
		if (frozen_give_base(pool->base, shell->vm, &err) < 0)
			vm_fail(shell->vm, &err);
		return;
	}
	shell_make_idle(shell);
	pool_hand_out(pool);
	pool_refill(pool);
	pool_trim(pool);
}

/* One that died before it was of use is replaced; its holder waits for that, or
 * finds fewer than it asked for. */
static void shell_failed(struct shell *shell, const struct ramet_err *err)
{
	struct pool *pool = shell->pool;
	struct pool_request *request = TAILQ_FIRST(&pool->requests);
	struct ramet_err cause = *err;

	log_warn("a shell of %llu MiB failed: %s",
		 (unsigned long long)(pool->kind.memory_bytes / MIB), err->msg);
	shell_remove(shell);
	shell_free(shell);
	if (++pool->failures >= FAILURES_MAX && request) {
		(void)err_prefix(&cause, "no worker could be made ready for it");
		pool_settle(request, &cause);
	} else if (pool->failures >= FAILURES_MAX) {
		pool->level = 0; /* until it is used again */
	}
	pool_refill(pool);
}

static void shell_on_lost(void *arg, const struct ramet_err *err)
{
	struct shell *shell = arg;
	struct ramet_err cause;

	/* Nobody shall get one that is on its way out; of one that was not ready
	 * yet its end tells why. */
	if (vm_loss(shell->vm, err, &cause) || shell->ready)
		shell_failed(shell, &cause);
}

static void shell_on_gone(void *arg)
{
	struct ramet_err err;

	(void)err_set(&err, ECONNRESET, "the worker is gone");
	shell_on_lost(arg, &err);
}

static void shell_on_refused(void *arg, uint32_t request, const struct ramet_err *err)
{
	(void)request;
	shell_failed(arg, err);
}

int shell_start(struct pool *pool, struct ramet_err *err)
{
	static const struct vm_events events = {
		.worker = { .ready = shell_on_ready,
			    .shell = shell_on_shell,
			    .refused = shell_on_refused,
			    .lost = shell_on_lost },
		.gone = shell_on_gone,
	};
	struct shell *shell = calloc(1, sizeof(*shell));
	int r;

	if (!shell)
		return err_set(err, ENOMEM, "no memory for a shell");
	shell->pool = pool;
	r = vm_start(pool->engine, pool->kind.memory_bytes, &events, shell, &shell->vm, err);
	if (r < 0) {
		free(shell);
		return r;
	}
	TAILQ_INSERT_TAIL(&pool->starting, shell, link);
	pool->starting_count++;
	return 0;
}
