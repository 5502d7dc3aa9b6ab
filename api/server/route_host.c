/* GET /v1/healthz, /v1/version, /v1/capacity. */
#include "api/server/request.h"
#include "guest/protocol.h"
#include "lib/clock.h"
#include "lib/meminfo.h"

static void healthz_end(struct request *request)
{
	uint64_t up_ns = clock_monotonic_ns() - request->server->started_ns;

	reply_json(request, MHD_HTTP_OK,
		   json_pack("{s:s, s:o}", "status", "ok", "uptime_ms", json_ms(up_ns)));
}

const struct request_ops route_healthz = { .end = healthz_end };

static void version_end(struct request *request)
{
	reply_json(request, MHD_HTTP_OK,
		   json_pack("{s:s, s:s, s:i, s:{s:s, s:s}}", "version", RAMET_VERSION, "api", "v1",
			     "agent_protocol", (int)PROTOCOL_VERSION, "libraries", "libmicrohttpd",
			     MHD_get_version(), "jansson", JANSSON_VERSION));
}

const struct request_ops route_version = { .end = version_end };

struct usage {
	json_int_t execs;
	uint64_t memory_bytes;
};

static bool usage_add(void *arg, struct sandbox *sandbox)
{
	struct usage *usage = arg;
	struct sandbox_info info;

	sandbox_info(sandbox, &info);
	usage->execs += info.exec_running;
	usage->memory_bytes += info.memory_bytes;
	return true;
}

static json_int_t mib(uint64_t bytes)
{
	return (json_int_t)(bytes / (1024 * 1024));
}

static json_t *counts_json(const struct engine_counts *counts)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "max",
			 (json_int_t)counts->max_sandboxes, "total", (json_int_t)counts->total,
			 "creating", (json_int_t)counts->creating, "ready",
			 (json_int_t)counts->ready, "paused", (json_int_t)counts->paused, "failed",
			 (json_int_t)counts->failed, "closing", (json_int_t)counts->closing);
}

static void capacity_end(struct request *request)
{
	struct server *server = request->server;
	struct usage usage = { 0 };
	struct engine_counts counts;
	struct meminfo host;

	if (meminfo_read(&host) < 0) {
		reply_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "internal",
			    "cannot read the host's memory from /proc/meminfo");
		return;
	}
	engine_sandbox_each(server->engine, usage_add, &usage);
	engine_counts(server->engine, &counts);
	reply_json(request, MHD_HTTP_OK,
		   json_pack("{s:o, s:{s:I, s:I}, s:{s:I}, s:{s:I, s:I, s:I}}", "sandboxes",
			     counts_json(&counts), "pool", "ready", (json_int_t)counts.shells_ready,
			     "starting", (json_int_t)counts.shells_starting, "execs", "running",
			     usage.execs, "memory_mb", "host_total", mib(host.total),
			     "host_available", mib(host.available), "sandboxes",
			     mib(usage.memory_bytes)));
}

const struct request_ops route_capacity = { .end = capacity_end };
